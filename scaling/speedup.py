"""Effective speedup: how much less compute one design needs than another for the same loss.

At a compute C of the reference its loss is L; the other design reaches L with C'. The speedup is C / C': 2 means that
half the compute is enough, below 1 that more is needed. It is not one number but a curve in C: designs with different
exponents or different irreducible losses have speedups that grow or vanish.

A design is a path: from training FLOPs to the run that would spend them. Both sides are read off *joint* draws. Under
one law that is one draw of its parameters; for two groups of runs with a law each, one resample of the whole table
serves both, so that what they share (a cluster, such as a data order) cancels. Where the two laws assume different
irreducible losses, that difference decides the speedup beyond the runs, and is said.

A widened fit's error of form (:mod:`moe_search.scaling.widening`) enters: how fast loss falls beyond the runs decides
how much compute a difference in loss is worth. In simulated worlds whose form was wrong, 95 % intervals of a model
three times as large for its compute held the true speedup in 24 of 27 at ten times the compute and in 28 of 28 at a
hundred; without it in 19 and 22. Draws in which it would make the loss *rise* with compute, where no equal loss has a
meaning, go without.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from moe_search.scaling.assumed import Asymptote, asymptote_of
from moe_search.scaling.extrapolation import SIZES, compute_of
from moe_search.scaling.fit import STARTS
from moe_search.scaling.fitted import Fit
from moe_search.scaling.groups import fit_groups
from moe_search.scaling.law import Array, Law
from moe_search.spaces.errors import InvalidInputError

Places = npt.NDArray[np.intp]
Path = Callable[[Array], pl.DataFrame]
"""Training FLOPs (rows,) to runs of a design that spend them, one row each, with what a law reads of them."""

REACH: Final = 6.0
"""Powers of ten of compute, to either side of what is asked, within which the equal loss is looked for."""
STEP: Final = 0.04
"""Of log10 compute between which the loss is interpolated."""
POINTS: Final = 13
BEYOND: Final = 10.0
"""Times the largest compute of the runs: how far the curve is told when nothing is asked."""
RESAMPLES: Final = 1000
ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class SpeedupPoint:
    """One compute of the reference. What is never reached is None."""

    train_flops: float
    loss: float
    """Of the reference there."""
    needed_flops: float | None
    """By the other design for that loss."""
    speedup: float | None
    """``train_flops / needed_flops``."""
    low_80: float | None
    high_80: float | None
    low_95: float | None
    """None where the other design never reaches the loss in so many draws that the end of the interval is zero."""
    high_95: float | None
    reached: float
    """Share of the draws in which the other design reaches the loss."""
    beyond_runs: tuple[str, ...]
    """Which sides are read off outside the compute of their runs: ``reference``, ``other``; none for interpolation."""


@dataclass(frozen=True)
class Speedup:
    """The speedup of one design over another."""

    reference: str
    other: str
    laws: tuple[str, str]
    asymptotes: tuple[Asymptote, Asymptote]
    points: tuple[SpeedupPoint, ...]
    interpolated: tuple[float, float] | None
    """Lowest and highest compute that is told and where both sides lie within their runs; None where nowhere."""
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **asdict(self),
            "asymptotes": [one.to_json() for one in self.asymptotes],
            "points": [asdict(point) for point in self.points],
        }


@dataclass(frozen=True)
class Side:
    """One side of the comparison."""

    name: str
    fitted: Fit
    path: Path
    span: tuple[float, float]
    """Lowest and highest training FLOPs of the runs that speak for this side."""


def by_compute(train_flops: Array) -> pl.DataFrame:
    """Return the path of a law that reads training FLOPs alone."""
    return pl.DataFrame({"train_flops": train_flops})


def at_its_ratio(run: pl.DataFrame) -> Path:
    """Return the path of a design that keeps its tokens a parameter: sizes and tokens grow as the root of compute.

    All other columns keep their values, so that a law which reads widths or depths needs a path of its own.

    Args:
        run: one row of a runs table.

    Raises:
        InvalidInputError: it has no compute, or is not one row.
    """
    flops = compute_of(run)
    if run.height != 1 or flops is None:
        raise InvalidInputError(
            f"a design is one run with its compute, not {run.height} rows", where="speedup", allowed="one row"
        )
    grown = [name for name in (*SIZES, "tokens") if name in run.columns]

    def path(train_flops: Array) -> pl.DataFrame:
        factor = pl.Series(np.sqrt(train_flops / flops[0]))
        rows = run.select(pl.all().repeat_by(len(train_flops)).explode())
        return rows.with_columns(
            *(pl.col(name).cast(pl.Float64) * factor for name in grown), train_flops=pl.Series(train_flops)
        )

    return path


def speedup(reference: Side, other: Side, train_flops: Array | None = None, *, seed: int = 0) -> Speedup:
    """Return the speedup of ``other`` over ``reference``.

    Args:
        reference: whose compute is asked about.
        other: a side with as many draws; draws of one number are one world.
        train_flops: of the reference, (points,); None: over the runs of both sides, and ten times beyond.
        seed: of what widened fits draw.

    Raises:
        InvalidInputError: the fits predict different losses, or have different numbers of draws.
    """
    a, b = reference.fitted, other.fitted
    if a.objective_column != b.objective_column or len(a.draws) != len(b.draws):
        raise InvalidInputError(
            f"{reference.name} and {other.name} cannot be compared: losses {a.objective_column} and "
            f"{b.objective_column}, {len(a.draws)} and {len(b.draws)} draws",
            where="speedup",
            allowed="fits of one loss with as many resamples",
        )
    if train_flops is None:
        lowest, highest = min(reference.span[0], other.span[0]), max(reference.span[1], other.span[1])
        train_flops = np.geomspace(lowest, BEYOND * highest, POINTS)
    told = np.log10(train_flops)
    grid = np.unique(np.concatenate([np.arange(told.min() - REACH, told.max() + REACH, STEP), told]))
    place = np.searchsorted(grid, told)
    target, target_draws = _with_its_form(a, reference.path(train_flops), seed)
    mean, draws = _with_its_form(b, other.path(10**grid), seed)
    needed = _nearest_equal(grid, mean[:, None], target[:, None], place)[:, 0]
    needed_draws = _nearest_equal(grid, draws, target_draws, place)
    if a.widening is not None or b.widening is not None:
        rising = draws[place + 1] >= draws[place - 1]
        _, plain_target = a.log_means(reference.path(train_flops))
        _, plain = b.log_means(other.path(10**grid))
        needed_draws = np.where(rising, _nearest_equal(grid, plain, plain_target, place), needed_draws)
    points = tuple(
        _point(float(flops), float(np.exp(loss)), float(at), at_draws, (reference, other))
        for flops, loss, at, at_draws in zip(train_flops, target, needed, needed_draws, strict=True)
    )
    inside = [point.train_flops for point in points if not point.beyond_runs]
    asymptotes = asymptote_of(a), asymptote_of(b)
    return Speedup(
        reference=reference.name,
        other=other.name,
        laws=(a.law.name, b.law.name),
        asymptotes=asymptotes,
        points=points,
        interpolated=(min(inside), max(inside)) if inside else None,
        notes=tuple(_notes(reference, other, asymptotes, points)),
    )


def speedup_of_groups(
    law: Law,
    frame: pl.DataFrame,
    reference: str,
    other: str,
    *,
    train_flops: Array | None = None,
    objective: str | None = None,
    cluster: str | None = None,
    shared: bool = False,
    paths: tuple[Path, Path] = (by_compute, by_compute),
    resamples: int = RESAMPLES,
    starts: int = STARTS,
    seed: int = 0,
) -> Speedup:
    """Fit ``law`` to two groups of runs, each on its own, and return the speedup of one over the other.

    Args:
        law: ``compute``, or another with ``paths``; ``compute:E=1.7`` pins the irreducible loss of both,
            ``compute:E=integrated`` integrates over that of each.
        frame: a runs table.
        reference: the first group, a condition as a Polars SQL expression; also its name.
        other: the second group.
        train_flops: as in :func:`speedup`.
        objective: as in :func:`~moe_search.scaling.fit.fit`.
        cluster: the resampling unit; one that has runs in both groups is drawn for both.
        shared: whether both have one irreducible loss; for a law that integrates over it.
        paths: of the reference and of the other.
        resamples: of the whole table; 0 for no intervals.
        starts: of each fit.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: a group is empty or too small, the groups share runs, or no irreducible loss fits both.
    """
    groups = fit_groups(
        law,
        frame,
        (reference, other),
        objective=objective,
        cluster=cluster,
        shared=shared,
        resamples=resamples,
        starts=starts,
        seed=seed,
    )
    sides = []
    for group, path in zip(groups, paths, strict=True):
        flops = compute_of(group.runs)
        if flops is None:
            raise InvalidInputError("the table has no training compute to compare designs at", where="train_flops")
        sides.append(Side(group.name, group.fitted, path, (float(flops.min()), float(flops.max()))))
    return speedup(sides[0], sides[1], train_flops, seed=seed)


def _with_its_form(fitted: Fit, frame: pl.DataFrame, seed: int) -> tuple[Array, Array]:
    """Log loss at the estimate (rows,) and in each draw (rows, draws), widened where the fit is."""
    mean, draws, _ = fitted.log_draws(frame, seed=seed)
    return mean, draws


def _nearest_equal(grid: Array, curve: Array, target: Array, place: Places) -> Array:
    """Log10 compute (points, draws) nearest to that of each point at which the log loss is the target's.

    It lies below where the loss at the point's own compute is lower, else above: inf where it is not reached there.

    Args:
        grid: (grid,), of log10 compute.
        curve: (grid, draws), log loss.
        target: (points, draws), log loss.
        place: (points,), index of each point's own compute in the grid.
    """
    found = np.empty(target.shape)
    draws = np.arange(curve.shape[1])
    for row, (wanted, own) in enumerate(zip(target, place, strict=True)):
        low_enough = curve <= wanted
        last_above = own - 1 - np.argmax(~low_enough[:own][::-1], axis=0)
        first_below = own + np.argmax(low_enough[own:], axis=0)
        after = np.where(low_enough[own], last_above + 1, first_below)
        high, low = curve[np.maximum(after - 1, 0), draws], curve[after, draws]
        share = np.clip((high - wanted) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
        crossing = grid[np.maximum(after - 1, 0)] + share * (grid[after] - grid[np.maximum(after - 1, 0)])
        always = low_enough[own] & low_enough[:own].all(axis=0)
        never = ~low_enough[own:].any(axis=0)
        found[row] = np.where(always, grid[0], np.where(never, np.inf, crossing))
    return found


def _point(flops: float, loss: float, at: float, draws: Array, sides: tuple[Side, Side]) -> SpeedupPoint:
    """One compute, from the log10 compute that the other design needs, at the estimate and in each draw."""
    factors = flops / 10**draws  # zero where it is never reached
    needed = float(10**at) if np.isfinite(at) else None
    ends: list[float | None] = [None] * 4
    if len(draws) > 1:
        low_80, low_95 = np.quantile(factors, [0.1, 0.025], method="lower")
        high_80, high_95 = np.quantile(factors, [0.9, 0.975], method="higher")
        ends = [float(end) if end > 0 else None for end in (low_80, high_80, low_95, high_95)]
    beyond = [
        name
        for name, value, side in zip(("reference", "other"), (flops, needed), sides, strict=True)
        if value is None or not side.span[0] * (1 - ROUNDING) <= value <= side.span[1] * (1 + ROUNDING)
    ]
    return SpeedupPoint(
        train_flops=flops,
        loss=loss,
        needed_flops=needed,
        speedup=None if needed is None else flops / needed,
        low_80=ends[0],
        high_80=ends[1],
        low_95=ends[2],
        high_95=ends[3],
        reached=float(np.isfinite(draws).mean()),
        beyond_runs=tuple(beyond),
    )


def _notes(
    reference: Side, other: Side, asymptotes: tuple[Asymptote, Asymptote], points: tuple[SpeedupPoint, ...]
) -> list[str]:
    """What has to be said beside the curve."""
    notes = [f"{side.name}: {one.sentence()}" for side, one in zip((reference, other), asymptotes, strict=True)]
    a, b = (one.estimate.value for one in asymptotes)
    if reference.fitted is not other.fitted and (a != b or a is None):
        notes.append(
            "the sides do not assume the same irreducible loss, which decides the speedup at compute beyond the runs"
        )
    never = [point.train_flops for point in points if point.needed_flops is None]
    if never:
        notes.append(
            f"{other.name} does not reach the loss that {reference.name} has from {min(never):.3g} FLOPs on, within "
            f"{10**REACH:.0e} times the compute"
        )
    outside = sum(bool(point.beyond_runs) for point in points)
    if outside:
        notes.append(f"{outside} of {len(points)} points are extrapolated for at least one side")
    return notes
