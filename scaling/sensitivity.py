"""What the answer hangs on: the same law fitted again under each choice that somebody else could have made.

The (Mis)Fitting survey (Li, Kudugunta and Zettlemoyer 2025) shows such choices, which papers rarely report, moving the
result: leaving out the smallest runs, the loss that is minimised, whether the irreducible loss is free, whether
checkpoints count as runs, what N counts. Each is made here alone, everything else as in the fit; the shift of a
quantity is told in standard errors of that fit, because a shift inside them is no news.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from moe_search.scaling.assumed import floor_of
from moe_search.scaling.best_split import DESIGN, SIZES_OF_A_LAW
from moe_search.scaling.expressions import evaluate
from moe_search.scaling.fit import fit, objective_column, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Law
from moe_search.scaling.pinned import Pinned
from moe_search.spaces.errors import InvalidInputError

SMALLEST = 0.25
"""Share of the runs, those of least compute, that is left out."""
DELTAS = (1e-4, 1e-2, 1.0)
"""Huber's delta, beside the fit's own; residuals are hardly ever above 1, so that 1 is least squares."""
STARTS = 64
SIZE_PAIRS = (
    ("without embeddings", (("n_active", "n_active_non_embedding"), ("n_total", "n_total_non_embedding"))),
    ("total for active", (("n_active", "n_total"), ("n_active_non_embedding", "n_total_non_embedding"))),
)
"""Conventions of N: their name, and the columns that trade places."""

MODEL = (*SIZES_OF_A_LAW, "d_model", "n_layers", "seed")
"""Columns that all checkpoints of one training share, beside those of its design."""


@dataclass(frozen=True)
class Quantity:
    """What is watched: a derived quantity of the law, or its loss for a model."""

    name: str
    is_loss: bool
    value: float
    se: float | None
    """Standard error under the resamples of the fit."""
    low: float | None
    high: float | None
    """95 % interval of the law itself, without the noise of a run."""


@dataclass(frozen=True)
class Variant:
    """The fit under one other choice."""

    choice: str
    """What was chosen differently, such as ``Huber delta``."""
    setting: str
    runs: int
    values: Mapping[str, float]
    """Name of a quantity to its value; one that the variant does not identify is left out."""


@dataclass(frozen=True)
class Sensitivity:
    """One law, its quantities, and what each choice makes of them."""

    law: str
    runs: int
    quantities: tuple[Quantity, ...]
    variants: tuple[Variant, ...]
    skipped: tuple[tuple[str, str], ...]
    """(choice, why) where a choice could not be made on this table."""

    def shift(self, variant: Variant, quantity: Quantity) -> float | None:
        """Return the change in standard errors of the fit; None where either is unknown."""
        value = variant.values.get(quantity.name)
        return (value - quantity.value) / quantity.se if value is not None and quantity.se else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "law": self.law,
            "runs": self.runs,
            "quantities": [asdict(quantity) for quantity in self.quantities],
            "variants": [{**asdict(variant), "values": dict(variant.values)} for variant in self.variants],
            "skipped": [{"choice": choice, "reason": reason} for choice, reason in self.skipped],
        }


def sensitivity(
    baseline: Fit,
    frame: pl.DataFrame,
    at: Mapping[str, pl.DataFrame],
    *,
    cluster: str | None = None,
    delta: float = 1e-3,
    seed: int = 0,
    starts: int = STARTS,
) -> Sensitivity:
    """Fit the law of ``baseline`` again under other choices; resamples are those of ``baseline`` alone.

    Args:
        baseline: the fit as it is reported.
        frame: the runs table that it was fitted to.
        at: name of a model to its row of a runs table (one row), where the loss is asked for.
        cluster: the resampling unit, a Polars SQL expression; units with several rows are taken for trainings with
            checkpoints or horizons.
        delta: Huber's delta of the fit.
        seed: of the starts.
        starts: of each refit.
    """
    law, column = baseline.law, objective_column(frame, baseline.objective_column)
    runs, _ = usable_runs(frame, column)
    quantities = _quantities(baseline, at)
    variants, skipped = [], []
    for choice in _choices(baseline, runs, cluster, delta):
        if isinstance(choice, tuple):
            skipped.append(choice)
            continue
        try:
            refit = fit(
                choice.law or law,
                choice.frame(runs),
                objective=column,
                resamples=0,
                seed=seed,
                delta=choice.delta or delta,
                starts=starts,
            )
            models = {name: choice.model(row) for name, row in at.items()}
            variants.append(Variant(choice.choice, choice.setting, refit.n_runs, _values(refit, models)))
        except InvalidInputError as error:
            skipped.append((f"{choice.choice}: {choice.setting}", str(error)))
    return Sensitivity(law.name, baseline.n_runs, quantities, tuple(variants), tuple(skipped))


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


@dataclass(frozen=True)
class _Choice:
    """One other choice: what it does to the runs, to the model that is asked about, and to the fit."""

    choice: str
    setting: str
    frame: Callable[[pl.DataFrame], pl.DataFrame] = _same
    model: Callable[[pl.DataFrame], pl.DataFrame] = _same
    law: Law | None = None
    delta: float | None = None


def _choices(
    baseline: Fit, runs: pl.DataFrame, cluster: str | None, delta: float
) -> Iterator[_Choice | tuple[str, str]]:
    """All choices; or, for one that this table does not offer, its name and the reason."""
    yield _without_smallest(runs)
    for other in DELTAS:
        if not np.isclose(other, delta):
            words = "least squares (delta 1)" if other == 1.0 else f"delta {other:g}"
            yield _Choice("Huber loss", words, delta=other)
    yield from _asymptotes(baseline)
    yield _last_rows(runs, cluster)
    yield from _conventions(baseline.law, runs)


def _without_smallest(runs: pl.DataFrame) -> _Choice | tuple[str, str]:
    name = "Smallest runs"
    order = next((c for c in ("train_flops", "n_active", "n_active_non_embedding", "n_total") if c in runs.columns), "")
    if not order:
        return name, "the table has neither training FLOPs nor sizes to order runs by"
    values = runs[order].cast(pl.Float64)
    cut = values.quantile(SMALLEST, interpolation="lower")
    left_out = int((values <= cut).sum())
    if cut is None or left_out in (0, runs.height):
        return name, "all runs are of the same size"
    what = "training FLOPs" if order == "train_flops" else "parameters"
    return _Choice(
        name,
        f"without the {left_out} of fewest {what}",
        frame=lambda frame: frame.filter(pl.col(order).cast(pl.Float64) > cut),
    )


def _asymptotes(baseline: Fit) -> Iterator[_Choice | tuple[str, str]]:
    """The irreducible loss held: at nothing, at both ends of its interval, and at the values of published fits."""
    name, law = "Asymptote", baseline.law
    floor = floor_of(law)
    if floor is None:
        yield name, f"the law {law.name} has no irreducible loss to pin"
        return
    free = baseline.parameters[floor.name]
    values = {f"{floor.name} = 0": floor.lower}
    if free.low is not None and free.high is not None:
        values |= {
            f"{floor.name} = {free.low:.4g} (low end of its interval)": free.low,
            f"{floor.name} = {free.high:.4g} (high end of its interval)": free.high,
        }
    if not baseline.objective_column.startswith("bpb"):  # published values are in nats a token
        values |= {
            f"{floor.name} = {coefficients[floor.name]:.4g} ({source})": coefficients[floor.name]
            for source, coefficients in law.published.items()
            if floor.name in coefficients
        }
    for words, value in values.items():
        yield _Choice(name, words, law=Pinned(law, {floor.name: value}))


def _last_rows(runs: pl.DataFrame, cluster: str | None) -> _Choice | tuple[str, str]:
    """One row a unit, the one of most tokens, in place of all."""
    name = "Checkpoints"
    if cluster is None:
        return name, "every row counts as a run of its own, because no unit of resampling was named"
    if "tokens" not in runs.columns:
        return name, "the table has no tokens to tell the last row of a training by"
    last = _last(runs, cluster)
    several = _models_a_unit(runs, cluster)
    if several:
        return (
            name,
            f"a unit of {cluster} holds several models ({', '.join(several)} differ), and is no training",
        )
    if last.height == runs.height:
        return name, "every training has one row"
    return _Choice(
        name, f"only the last row of each of {last.height} trainings", frame=lambda frame: _last(frame, cluster)
    )


def _models_a_unit(runs: pl.DataFrame, cluster: str) -> list[str]:
    """Columns of the model that differ within some unit: its rows are no checkpoints of one training."""
    unit = evaluate(runs, cluster, where="--cluster").alias("resampling unit")
    names = [name for name in runs.columns if name in MODEL or DESIGN.match(name)]
    if not names:
        return []
    counts = runs.with_columns(unit).group_by("resampling unit").agg(pl.col(names).n_unique())
    return [name for name in names if (counts[name] > 1).any()]


def _last(frame: pl.DataFrame, cluster: str) -> pl.DataFrame:
    unit = evaluate(frame, cluster, where="--cluster").alias("resampling unit")
    return (
        frame.with_columns(unit)
        .sort("tokens")
        .group_by("resampling unit", maintain_order=True)
        .last()
        .drop("resampling unit")
    )


def _conventions(law: Law, runs: pl.DataFrame) -> Iterator[_Choice | tuple[str, str]]:
    """Other meanings of N, where the table has them and the law reads them."""
    tried = False
    before = law.variables(runs)
    for words, pairs in SIZE_PAIRS:
        there = [pair for pair in pairs if set(pair) <= set(runs.columns) and not _equal(runs, *pair)]
        if not there:
            continue

        def traded(frame: pl.DataFrame, there: Sequence[tuple[str, str]] = there) -> pl.DataFrame:
            swaps = [(a, b) for a, b in there if {a, b} <= set(frame.columns)]
            return frame.with_columns(
                *(pl.col(a).alias(b) for a, b in swaps),
                *(pl.col(b).alias(a) for a, b in swaps),
            )

        after = law.variables(traded(runs))
        if all(np.array_equal(before[key], after[key]) for key in before):
            continue
        tried = True
        back = words == "without embeddings" and "without embeddings" in law.convention.split(";")[0]
        yield _Choice("N counts", "embeddings too" if back else words, frame=traded, model=traded)
    if not tried:
        yield "N counts", "the table has one count of parameters only, or the law reads none"


def _equal(runs: pl.DataFrame, one: str, other: str) -> bool:
    difference = (runs[one].cast(pl.Float64) / runs[other].cast(pl.Float64)).log().abs().max()
    return difference is None or not float(str(difference)) > 1e-6


def _quantities(baseline: Fit, at: Mapping[str, pl.DataFrame]) -> tuple[Quantity, ...]:
    found = [
        Quantity(name, is_loss=False, value=estimate.value, se=estimate.se, low=estimate.low, high=estimate.high)
        for name, estimate in baseline.derived.items()
        if estimate.value is not None
    ]
    for name, row in at.items():
        middle, draws = baseline.log_means(row)
        losses = np.exp(draws[0])
        known = len(losses) > 1
        low, high = np.quantile(losses, [0.025, 0.975]) if known else (np.nan, np.nan)
        found.append(
            Quantity(
                name,
                is_loss=True,
                value=float(np.exp(middle[0])),
                se=float(losses.std(ddof=1)) if known else None,
                low=float(low) if known else None,
                high=float(high) if known else None,
            )
        )
    return tuple(found)


def _values(refit: Fit, at: Mapping[str, pl.DataFrame]) -> dict[str, float]:
    derived = {name: estimate.value for name, estimate in refit.derived.items() if estimate.value is not None}
    losses = {name: float(np.exp(refit.log_means(row)[0][0])) for name, row in at.items()}
    return {**derived, **losses}
