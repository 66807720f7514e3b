"""Three ways from the same runs to the best split of compute, side by side, each with its bias measured.

Hoffmann et al. 2022 (arXiv 2203.15556, section 3) asked three ways how parameters and tokens should grow with compute:

1. the best run at each compute (the lower envelope of training curves; of final losses, the best run of each bin of
   compute) and a line through their sizes;
2. a parabola in log size through the runs of each budget near its best, and a line through the bottoms;
3. a law L(N, D) fitted to all runs, and its minimum at each compute.

None of them is right by construction. A parabola is symmetric and a loss is not, so that Approach 2 is off even without
noise where alpha differs from beta and the sizes are not centred alike at every budget (Open-Athena,
``scaling-law-analysis``); Approach 1 only knows sizes that were run. How far off *on this table* is measured: the
fitted law is taken for the truth, its losses without noise are put at the very runs of the table, and each approach is
asked again, through the groups it had used. What it then says, less what the law says, is the bias of the design. It
is an answer to "if the law were true", and says nothing about a law that is not.

Intervals are from refits of resampled runs or clusters; those of the bias are over the draws of the law. Those of
Approaches 1 and 2 are cautious, because a resample takes runs out of a grid that was laid on purpose: in 180 simulated
tables of 6 budgets with 5 or 7 sizes all held the truth, those of Approach 3 in 174.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from moe_search.scaling.best_split import Ladder, best_log_size, complete
from moe_search.scaling.budgets import BIN_DECADES, BUDGET_DECADES, Rows, group_by_compute
from moe_search.scaling.extrapolation import compute_of
from moe_search.scaling.fit import complete_runs, fit, usable_runs
from moe_search.scaling.fitted import Estimate, Fit
from moe_search.scaling.law import Array
from moe_search.scaling.minima import FAULTS, FINE, Counts, Mask, Minima, Runs, best_runs, line, parabolas, sizes_of
from moe_search.scaling.resampling import resampling_units
from moe_search.spaces.errors import InvalidInputError

FEWEST_GROUPS: Final = 3
"""Of a line; two points have no scatter around it."""
FEWEST_GROUPS_DRAWN: Final = 2
"""Of a line through what a resample left."""
FEWEST_DRAWS: Final = 0.5
"""Share of the resamples that must have a line, for an interval."""
WITHIN: Final = 8.0
"""Factor of size around a budget's best run: further out the loss is no parabola. On the ten sweeps of Porian et al.
2024 (arXiv 2406.19146) Approach 2 then differs from their exponents, which are local interpolations, by 0.013 on
average in place of 0.030, and its measured bias is 0.007 in place of 0.052."""
RESAMPLES: Final = 1000
STARTS: Final = 16
"""Of the refit to losses without noise."""
BEYOND: Final = 10.0
"""Times the largest compute: where the split is told when nothing is asked."""

ENVELOPE = "the lowest loss at each compute"
PARABOLA = "iso-FLOP parabolas"
PARAMETRIC = "parametric law"
KNOWN_BIAS = {
    ENVELOPE: "It only knows sizes that were run: the best size jumps between them, noise decides near-ties, and where "
    "large sizes were not run at large compute the exponent comes out too low.",
    PARABOLA: "A parabola is symmetric and the loss is not: where alpha differs from beta its bottom is off, and the "
    "exponent too unless the sizes are centred on the optimum alike at every budget, even without noise.",
    PARAMETRIC: "It is exact where its form is true at all sizes; where it is not, the error goes into the exponents, "
    "and a measurement that takes the law for the truth cannot show it.",
}


@dataclass(frozen=True)
class Group:
    """Runs of nearly equal compute, and the minimum that was found among them."""

    train_flops: float
    """Geometric mean."""
    runs: int
    sizes: int
    """Different ones."""
    reason: str
    """Why there is no minimum; empty where it was used."""
    size: float | None
    tokens: float | None
    loss: float | None

    @property
    def used(self) -> bool:
        """Whether the line goes through its minimum."""
        return not self.reason


@dataclass(frozen=True)
class Split:
    """The best model at one compute."""

    train_flops: float
    size: Estimate
    """Parameters, as the size column counts them."""
    tokens: Estimate
    size_bias: Estimate
    """Factor by which the approach misses the best size of the fitted law, at these runs without noise; 1 for none."""


@dataclass(frozen=True)
class Approach:
    """What one approach says."""

    number: int
    name: str
    known_bias: str
    reason: str
    """Why it has no answer; else empty."""
    size_exponent: Estimate
    """a in N* ~ C^a."""
    tokens_exponent: Estimate
    """b in D* ~ C^b. Approach 3 has b = 1 - a (where C = k N D), the others fit it on its own."""
    size_exponent_bias: Estimate
    """Exponent at these runs without noise, less that of the law."""
    tokens_exponent_bias: Estimate
    splits: tuple[Split, ...]
    groups: tuple[Group, ...]
    """None for Approach 3, which uses all runs at once."""
    draws_used: float
    """Share of the resamples that had an answer."""

    @property
    def size_exponent_less_bias(self) -> float | None:
        """The exponent with the bias of the design taken off; None where either is unknown."""
        value, bias = self.size_exponent.value, self.size_exponent_bias.value
        return None if value is None or bias is None else value - bias

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        content = asdict(self)
        content["groups"] = [{**asdict(group), "used": group.used} for group in self.groups]
        return {**content, "size_exponent_less_bias": self.size_exponent_less_bias}


@dataclass(frozen=True)
class Approaches:
    """Three answers from one table."""

    law: str
    """Of Approach 3, and the truth that biases are measured against."""
    runs: int
    size_column: str
    flops_factor: float
    """k in C = k N D, the median over runs, at the middle size."""
    approaches: tuple[Approach, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "approaches": [one.to_json() for one in self.approaches], "notes": list(self.notes)}


def compare_approaches(
    fitted: Fit,
    frame: pl.DataFrame,
    *,
    at: Sequence[float] | None = None,
    cluster: str | None = None,
    within: float = WITHIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Approaches:
    """Ask the three approaches about the runs of ``frame``.

    Args:
        fitted: Approach 3: a law of sizes and tokens, fitted to these runs; its draws give its intervals.
        frame: the runs table.
        at: training FLOPs at which the split is told; None: the largest of the table, and ten times it.
        cluster: the resampling unit, a Polars SQL expression; None: one run.
        within: runs of a budget whose size is within this factor of the best run's enter its parabola; ``inf``: all.
        resamples: of Approaches 1 and 2; 0 for no intervals.
        seed: of the resamples.

    Raises:
        InvalidInputError: the table has no sizes, tokens or compute, or the law has no best split of compute.
    """
    usable = complete(complete_runs(fitted.law, usable_runs(frame, fitted.objective_column)[0])[0])
    ladder = Ladder.of(usable, fitted.objective_column)
    flops = compute_of(usable)
    assert flops is not None, "a ladder has compute"
    size, tokens, loss = (
        usable[name].cast(pl.Float64).to_numpy() for name in (ladder.size_column, "tokens", fitted.objective_column)
    )
    runs = Runs(np.log(flops), np.log(size), np.log(tokens))
    told = np.array([flops.max(), BEYOND * flops.max()] if at is None else at, dtype=np.float64)
    law = _Law.of(fitted, usable, ladder, told)
    if np.isnan(law.line[0][0]):
        raise InvalidInputError(
            f"the law {fitted.law.name} has no best split of compute between parameters and tokens near these runs",
            where="approaches",
            allowed="a law that weighs parameters against tokens",
            fix="chinchilla",
        )
    weights = _weights(usable, cluster, resamples, seed)
    methods = (
        (1, ENVELOPE, best_runs, group_by_compute(flops, BIN_DECADES)),
        (2, PARABOLA, partial(parabolas, within=within), group_by_compute(flops, BUDGET_DECADES)),
    )
    found = [
        _by_groups(number, name, method, groups, runs=runs, loss=loss, weights=weights, law=law, told=told)
        for number, name, method, groups in methods
    ]
    return Approaches(
        law=fitted.law.name,
        runs=usable.height,
        size_column=ladder.size_column,
        flops_factor=ladder.flops_factor,
        approaches=(*found, _parametric(fitted, usable, ladder, law, told)),
        notes=(*ladder.notes(), *_notes(found)),
    )


Method = Callable[[Runs, Array, Array, Sequence[Rows]], Minima]
Line = tuple[Array, Array]
"""Slope and intercept, each (batch,)."""


@dataclass(frozen=True)
class _Law:
    """The fitted law as a truth: row 0 of each array is its point estimate, the others are its draws."""

    line: Line
    """Of log best size over log compute, over the compute of the table."""
    tokens_slope: Array
    """(1 + draws,): likewise of log tokens."""
    log_size: Array
    """(1 + draws, told): the best size at each compute that is told."""
    loss: Array
    """(1 + draws, runs): without noise."""

    @classmethod
    def of(cls, fitted: Fit, frame: pl.DataFrame, ladder: Ladder, told: Array) -> "_Law":
        theta = np.concatenate([fitted.theta[None, :], fitted.draws if len(fitted.draws) > 1 else fitted.draws[:0]])
        inside = np.exp(np.linspace(*ladder.log_flops, 5))
        best = best_log_size(fitted.law, theta, ladder, np.concatenate([inside, told]))
        within = best[:, : len(inside)]
        x = np.broadcast_to(np.log(inside), within.shape)
        mean, draws = fitted.log_means(frame)
        loss = np.exp(np.concatenate([mean[None, :], draws.T[: len(theta) - 1]]))
        found = line(x, within, np.isfinite(within), fewest=np.array(len(inside)))
        tokens_slope = 1 - (1 + ladder.flops_slope) * found[0]
        return cls(found, tokens_slope, best[:, len(inside) :], loss)


def _weights(frame: pl.DataFrame, cluster: str | None, resamples: int, seed: int) -> Array:
    """Weights (1 + resamples, runs): the table itself, then whole units drawn with replacement."""
    units = resampling_units(frame, cluster)
    count = int(units.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)[:, units]
    return np.concatenate([np.ones((1, frame.height)), drawn.astype(np.float64)])


def _by_groups(
    number: int,
    name: str,
    method: Method,
    groups: Sequence[Rows],
    *,
    runs: Runs,
    loss: Array,
    weights: Array,
    law: _Law,
    told: Array,
) -> Approach:
    """Approach 1 or 2: minima of groups, a line through them, and the same without noise."""
    minima = method(runs, np.broadcast_to(loss, weights.shape), weights, groups)
    used = minima.fault == FINE
    fewest = np.where(np.arange(len(weights)) == 0, FEWEST_GROUPS, FEWEST_GROUPS_DRAWN)
    by_size, by_tokens = _lines(minima, used, fewest)
    described = tuple(_group(rows, column, runs, minima) for column, rows in enumerate(groups))
    enough = int(used[0].sum()) >= FEWEST_GROUPS
    answered = float(np.isfinite(by_size[0][1:]).mean()) if len(weights) > 1 else 0.0
    at = np.log(told)
    approach = Approach(
        number=number,
        name=name,
        known_bias=KNOWN_BIAS[name],
        reason="" if enough else f"{used[0].sum()} of {len(groups)} groups have a minimum; {FEWEST_GROUPS} are needed",
        size_exponent=_estimate(by_size[0]),
        tokens_exponent=_estimate(by_tokens[0]),
        size_exponent_bias=Estimate.withheld(),
        tokens_exponent_bias=Estimate.withheld(),
        splits=tuple(
            Split(float(flops), _estimate(_along(by_size, x)), _estimate(_along(by_tokens, x)), Estimate.withheld())
            for flops, x in zip(told, at, strict=True)
        ),
        groups=described,
        draws_used=answered,
    )
    if not enough:
        return approach
    everywhere = np.ones_like(law.loss)
    clean = method(runs, law.loss, everywhere, groups)
    there = used[:1] & np.isfinite(clean.log_size)
    clean_size, clean_tokens = _lines(clean, there, np.full(len(everywhere), FEWEST_GROUPS_DRAWN))
    return replace(
        approach,
        size_exponent_bias=_estimate(clean_size[0] - law.line[0]),
        tokens_exponent_bias=_estimate(clean_tokens[0] - law.tokens_slope),
        splits=tuple(
            replace(split, size_bias=_estimate(np.exp(_log_along(clean_size, x) - law.log_size[:, column])))
            for column, (split, x) in enumerate(zip(approach.splits, at, strict=True))
        ),
    )


def _lines(minima: Minima, used: Mask, fewest: Counts) -> tuple[Line, Line]:
    """Lines of log size and of log tokens over log compute."""
    by_size, by_tokens = (line(minima.log_flops, y, used, fewest=fewest) for y in (minima.log_size, minima.log_tokens))
    return by_size, by_tokens


def _log_along(fitted: Line, log_flops: float) -> Array:
    return fitted[1] + fitted[0] * log_flops


def _along(fitted: Line, log_flops: float) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(_log_along(fitted, log_flops)))


def _estimate(values: Array) -> Estimate:
    """The first value, with the spread of the others where enough of them are known."""
    draws = values[1:][np.isfinite(values[1:])]
    return Estimate.of(float(values[0]), draws if len(draws) >= FEWEST_DRAWS * (len(values) - 1) else draws[:0])


def _group(rows: Rows, column: int, runs: Runs, minima: Minima) -> Group:
    fault = int(minima.fault[0, column])
    values = [
        float(np.exp(minima.log_size[0, column])),
        float(np.exp(minima.log_tokens[0, column])),
        float(minima.loss[0, column]),
    ]
    size, tokens, loss = values if fault == FINE else [None] * 3
    return Group(
        train_flops=float(np.exp(runs.log_flops[rows].mean())),
        runs=len(rows),
        sizes=sizes_of(runs.log_size[rows]),
        reason=FAULTS[fault],
        size=size,
        tokens=tokens,
        loss=loss,
    )


def _parametric(fitted: Fit, frame: pl.DataFrame, ladder: Ladder, law: _Law, told: Array) -> Approach:
    """Approach 3, refitted to its own losses without noise: what the runs cannot tell apart would show there."""
    column = fitted.objective_column
    clean = frame.with_columns(pl.Series(column, law.loss[0]))
    again = fit(fitted.law, clean, objective=column, resamples=0, starts=STARTS)
    refound = _Law.of(again, frame, ladder, told)
    slope = law.line[0]
    return Approach(
        number=3,
        name=PARAMETRIC,
        known_bias=KNOWN_BIAS[PARAMETRIC],
        reason="",
        size_exponent=_estimate(slope),
        tokens_exponent=_estimate(law.tokens_slope),
        size_exponent_bias=Estimate.of(float(refound.line[0][0] - slope[0]), slope[:0]),
        tokens_exponent_bias=Estimate.of(float(refound.tokens_slope[0] - law.tokens_slope[0]), slope[:0]),
        splits=tuple(
            Split(
                float(flops),
                _estimate(np.exp(law.log_size[:, k])),
                _estimate(np.exp(ladder.log_tokens(law.log_size[:, k], float(np.log(flops))))),
                Estimate.of(float(np.exp(refound.log_size[0, k] - law.log_size[0, k])), slope[:0]),
            )
            for k, flops in enumerate(told)
        ),
        groups=(),
        draws_used=float(np.isfinite(slope[1:]).mean()) if len(slope) > 1 else 0.0,
    )


def _notes(found: Sequence[Approach]) -> list[str]:
    """Which approaches have no interval, and why."""
    return [
        f"Approach {one.number} has no interval: {1 - one.draws_used:.0%} of the resamples have too few minima"
        for one in found
        if not one.reason and 0 < one.draws_used < FEWEST_DRAWS
    ]
