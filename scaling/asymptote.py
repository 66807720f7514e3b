"""One forecast under three treatments of the irreducible loss: fitted, pinned, and integrated over.

Two forecasts of one table that differ in this choice can differ by more than either's interval. Here they stand beside
each other, each with the choice in words:

- *free*: fitted like any parameter; its doubt is that of resampled tables;
- *pinned*: held at a value that somebody assumes, ``--law compute:E=1.69``; the interval is that of the rest, and as
  narrow as if the value were known;
- *integrated*: every value that the runs allow, weighed by its profile likelihood, ``--law compute:E=integrated``
  (:mod:`moe_search.scaling.integrated`).

In 240 simulated tables of 12 to 60 runs over three decades of compute (noise of 0.4 to 1 %), 95 % intervals at ten
times the largest compute held the truth in 98 of 100 (free) and 96 (integrated), at 10,000 times in 97 and 96; pinned
at the best fit of the same runs in 38 and in 14.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from moe_search.scaling.assumed import Asymptote, asymptote_of, floor_of
from moe_search.scaling.fit import STARTS, fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Law
from moe_search.scaling.pinned import Pinned
from moe_search.spaces.errors import InvalidInputError

RESAMPLES: Final = 1000


@dataclass(frozen=True)
class Forecast:
    """The law's loss for one model under one treatment; without the noise of a run, widened where the fit is."""

    model: str
    loss: float
    """At the best fit (of the other parameters, where one is pinned)."""
    low_80: float
    high_80: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Treatment:
    """One treatment of the irreducible loss, and what it forecasts."""

    law: str
    """As ``--law`` takes it."""
    asymptote: Asymptote
    objective: float
    """Summed Huber loss of the best fit: a pinned value that the runs speak against has a larger one."""
    forecasts: tuple[Forecast, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self),
            "asymptote": self.asymptote.to_json(),
            "forecasts": [asdict(one) for one in self.forecasts],
        }


@dataclass(frozen=True)
class Treatments:
    """All treatments of one table."""

    law: str
    treatments: tuple[Treatment, ...]
    """Free first, then the pinned ones, then integrated."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"law": self.law, "treatments": [one.to_json() for one in self.treatments]}


def forecasts_by_asymptote(
    law: Law,
    frame: pl.DataFrame,
    at: Mapping[str, pl.DataFrame],
    *,
    pinned: Sequence[float] = (),
    objective: str | None = None,
    cluster: str | None = None,
    resamples: int = RESAMPLES,
    starts: int = STARTS,
    seed: int = 0,
) -> Treatments:
    """Fit ``law`` with its irreducible loss free, pinned and integrated over, and forecast models with each.

    Args:
        law: with a parameter that is the irreducible loss, such as ``compute``; all of it free.
        frame: a runs table.
        at: name of a model to its row of a runs table (one row).
        pinned: values to hold it at; none: those of published fits where the losses are nats a token, else the best
            fit's own (which shows what taking it for known would claim), where the runs identify one.
        objective: as in :func:`~moe_search.scaling.fit.fit`, and so are the others.
        cluster: the resampling unit.
        resamples: at least 2, for intervals.
        starts: of each fit.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: the law has no irreducible loss that is free, or there are no resamples.
    """
    if not has_free_asymptote(law):
        raise InvalidInputError(
            f"the law {law.name} has no irreducible loss that is fitted", where="--law", fix="compute"
        )

    def fit_one(one: Law) -> Fit:
        return fit(one, frame, objective=objective, cluster=cluster, resamples=resamples, starts=starts, seed=seed)

    _enough(resamples)
    return treatments_of(fit_one(law), at, fit_one, pinned=pinned)


def has_free_asymptote(law: Law) -> bool:
    """Whether the law has an irreducible loss that is fitted like any parameter."""
    return floor_of(law) is not None and law.integrated is None


def treatments_of(
    free: Fit, at: Mapping[str, pl.DataFrame], fit_one: Callable[[Law], Fit], *, pinned: Sequence[float] = ()
) -> Treatments:
    """Forecast models with a fit, and with what ``fit_one`` makes of its law once its irreducible loss is treated.

    Args:
        free: the fit whose law's irreducible loss is fitted; of any other law it stays the only treatment.
        at: as in :func:`forecasts_by_asymptote`.
        fit_one: fits the law it is given to the runs of ``free``, in the same way.
        pinned: as in :func:`forecasts_by_asymptote`.

    Raises:
        InvalidInputError: there are no resamples, values are to be pinned and the law has nothing to pin, or a value
            is out of bounds.
    """
    _enough(len(free.draws))
    law = free.law
    floor = floor_of(law)
    first = _treated(free, at)
    if floor is None or law.integrated is not None:
        if pinned:
            raise InvalidInputError(f"the law {law.name} has no irreducible loss that could be held at {pinned[0]:g}")
        return Treatments(law.name, (first,))
    values = pinned or _usual(free, floor.name) or _best(first)
    others = [Pinned(law, {floor.name: value}) for value in values]
    integrated = Pinned(law, {}, integrated=floor.name)
    return Treatments(law.name, (first, *(_treated(fit_one(one), at) for one in (*others, integrated))))


def _enough(resamples: int) -> None:
    if resamples < 2:
        raise InvalidInputError(
            f"{resamples if resamples else 'no'} resamples give no interval", where="--resamples", allowed="at least 2"
        )


def _treated(fitted: Fit, at: Mapping[str, pl.DataFrame]) -> Treatment:
    return Treatment(fitted.law.name, asymptote_of(fitted), fitted.objective, _forecasts(fitted, at))


def _usual(free: Fit, name: str) -> list[float]:
    """Published values of the parameter, where the losses are in the unit of the publication."""
    if free.objective_column.startswith("bpb"):
        return []
    return sorted({float(fitted[name]) for fitted in free.law.published.values() if name in fitted})


def _best(free: Treatment) -> list[float]:
    """The best fit's own value; none where the runs do not identify it."""
    value = free.asymptote.estimate.value
    return [] if value is None else [value]


def _forecasts(fitted: Fit, at: Mapping[str, pl.DataFrame]) -> tuple[Forecast, ...]:
    found = []
    for name, row in at.items():
        middle, draws, _ = fitted.log_draws(row)
        low_80, high_80, low_95, high_95 = np.exp(np.quantile(draws[0], [0.1, 0.9, 0.025, 0.975])).tolist()
        found.append(Forecast(name, float(np.exp(middle[0])), low_80, high_80, low_95, high_95))
    return tuple(found)
