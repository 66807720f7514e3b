"""Questions to fitted laws: forecasts by irreducible loss, speedups of groups of runs, profiles of the likelihood."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import polars as pl

from moe_search.experiments.asking import COMPUTE, Asked, models_of
from moe_search.experiments.comparing import compare_groups
from moe_search.scaling.asymptote import Treatments, has_free_asymptote, treatments_of
from moe_search.scaling.calibration import widen
from moe_search.scaling.censoring import Censored
from moe_search.scaling.expressions import mask
from moe_search.scaling.fit import fit, usable_runs
from moe_search.scaling.fitted import Fit, finite_or_null
from moe_search.scaling.law import Law
from moe_search.scaling.resampling import Kind
from moe_search.scaling.speedup import Speedup
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class Questions:
    """What ``moe-search fit`` is asked beside the fit itself."""

    asked: tuple[Asked, ...] = ()
    """Models to forecast."""
    asymptotes: tuple[float, ...] = ()
    """Irreducible losses to forecast them with, beside the fitted one and the integrated one."""
    groups: tuple[str, ...] = ()
    """Conditions of the groups of runs that are compared, the reference first."""
    shared: bool = False
    """Whether the groups have one irreducible loss."""

    def check(self, laws: Sequence[Law], resamples: int) -> None:
        """Refuse what has no answer, before anything is fitted.

        Raises:
            InvalidInputError: an option without the one it belongs to, no resamples, or no law to hold a loss of.
        """
        if self.asymptotes and not self.asked:
            raise InvalidInputError(
                "an irreducible loss is assumed for forecasts", where="--asymptote", fix="--at 'train_flops=1e24'"
            )
        if self.asymptotes and not any(map(has_free_asymptote, laws)):
            raise InvalidInputError(
                f"{', '.join(law.name for law in laws)} has no irreducible loss that is fitted and could be assumed",
                where="--asymptote",
                fix="--law compute",
            )
        if self.shared and not self.groups:
            raise InvalidInputError(
                "an irreducible loss is shared by groups of runs", where="--shared-asymptote", fix="--compare EXPR"
            )
        for law in laws:
            if self.shared and law.integrated is None:
                raise InvalidInputError(
                    f"{law.name} integrates over no irreducible loss that the groups could share",
                    where="--shared-asymptote",
                    fix=f"--law {law.name.split(':')[0]}:E=integrated",
                )
        if self.asked and resamples < 2:
            raise InvalidInputError(
                f"a forecast without an interval is none, and {resamples or 'no'} resamples give none",
                where="--at",
                fix="--resamples 1000",
            )


@dataclass(frozen=True)
class Answer:
    """What one law answers."""

    fitted: Fit
    models: Mapping[str, pl.DataFrame]
    """The models that were asked about, as rows, by name."""
    forecasts: Treatments | None
    """None where none was asked for."""
    speedups: tuple[Speedup, ...] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return one object of ``moe-search fit --json``; what was not asked for is null."""
        forecasts = self.forecasts and {
            "models": {name: row.to_dicts()[0] for name, row in self.models.items()},
            "treatments": self.forecasts.to_json()["treatments"],
        }
        content: dict[str, Any] = finite_or_null(
            {
                "profiles": [one.to_json() for one in self.fitted.profiles] or None,
                "forecasts": forecasts,
                "speedups": None if self.speedups is None else [one.to_json() for one in self.speedups],
            }
        )
        return {**self.fitted.to_json(), **content}


@dataclass(frozen=True)
class Fitter:
    """How laws are fitted to a table: once for the fit itself, and again, in the same way, for each question.

    The fields are the arguments of :func:`~moe_search.scaling.fit.fit`.
    """

    frame: pl.DataFrame
    _: KW_ONLY
    objective: str | None
    holdout: str | None
    cluster: str | None
    resampling: Literal["auto"] | Kind
    censored: tuple[Censored, ...]
    resamples: int
    seed: int

    @property
    def fitted_to(self) -> pl.DataFrame:
        """The runs that are not held out."""
        return self.frame.filter(~mask(self.frame, self.holdout or "false", where="--holdout"))

    def fit(self, law: Law, *, profiles: bool = False) -> Fit:
        """Return the law on the runs, widened by its record."""
        fitted = fit(
            law,
            self.frame,
            objective=self.objective,
            holdout=self.holdout,
            cluster=self.cluster,
            resampling=self.resampling,
            censored=self.censored,
            resamples=self.resamples,
            profiles=profiles,
            seed=self.seed,
        )
        return widen(fitted, self.frame, holdout=self.holdout, cluster=self.cluster, seed=self.seed)

    def answer(self, questions: Questions, fitted: Fit) -> Answer:
        """Ask one law that :meth:`fit` returned.

        Raises:
            InvalidInputError: a model or a group cannot be asked about with this law.
        """
        models, notes = models_of(fitted, self.fitted_to, questions.asked)
        forecasts = speedups = None
        if questions.asked:
            pinned = questions.asymptotes if has_free_asymptote(fitted.law) else ()
            _check_below_the_runs(
                pinned, usable_runs(self.fitted_to, fitted.objective_column)[0][fitted.objective_column]
            )
            forecasts = treatments_of(fitted, models, self.fit, pinned=pinned)
        if questions.groups:
            speedups = compare_groups(
                fitted.law,
                self.fitted_to,
                questions.groups,
                train_flops=[one.values[COMPUTE] for one in questions.asked if one.is_compute],
                objective=self.objective,
                cluster=self.cluster,
                shared=questions.shared,
                resamples=self.resamples,
                seed=self.seed,
            )
            notes += list(dict.fromkeys(note for one in speedups for note in one.notes))
        return Answer(fitted, models, forecasts, speedups, tuple(notes))


def _check_below_the_runs(asymptotes: Sequence[float], losses: pl.Series) -> None:
    """Refuse an irreducible loss that some run has gone below."""
    least = float(losses.cast(pl.Float64).min())  # type: ignore[arg-type]
    for value in asymptotes:
        if not 0 <= value < least:
            raise InvalidInputError(
                f"an irreducible loss of {value:g} is none: the lowest {losses.name} of the runs is {least:.4g}",
                where="--asymptote",
                allowed=f"at least 0, and below {least:.4g}",
            )
