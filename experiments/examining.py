"""What a report adds to a fit: errors over several cuts, sensitivity, three ways to the best split, and speedup."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl

from moe_search.scaling.approaches import Approaches, compare_approaches
from moe_search.scaling.extrapolation import compute_of
from moe_search.scaling.fit import complete_runs, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.report.runs_view import dense_runs
from moe_search.scaling.rolling import Rolling, roll
from moe_search.scaling.sensitivity import Sensitivity, sensitivity
from moe_search.scaling.speedup import Path, Side, Speedup, at_its_ratio, speedup
from moe_search.spaces.errors import InvalidInputError

FURTHER = 10.0
"""Times the compute of the largest run that the sensitivity of the loss is asked for, and the best split."""
SIZES = ("n_active", "n_total", "n_active_non_embedding", "n_total_non_embedding")
ACTIVE = ("n_active", "n_active_non_embedding", "n_total", "n_total_non_embedding")
ROLLED_RESAMPLES, ROLLED_STARTS = 100, 32
REFIT_STARTS = 24
SPLIT_RESAMPLES = 300
SPLITS = 8
"""Levels of compute, the largest run's the last, at which the best split is drawn."""
BLIND = 1e-9
"""Difference in log loss below which a law does not tell two designs apart."""
T = TypeVar("T")


@dataclass(frozen=True)
class Examined:
    """The further examinations; or why one was not made."""

    sensitivity: Sensitivity | str
    rolling: Rolling | str
    approaches: Approaches | str
    speedup: Speedup | str


def examine(
    frame: pl.DataFrame,
    fits: Sequence[Fit],
    *,
    rolled: Rolling | None = None,
    cluster: str | None,
    seed: int,
) -> Examined:
    """Examine fitted laws, the one to extrapolate with first.

    Args:
        frame: the runs table that they were fitted to.
        fits: the laws, fitted to all runs.
        rolled: their held-out errors where they are known already; None: they are measured.
        cluster: the resampling unit.
        seed: of starts and resamples.
    """
    if not fits:
        no_law = "No law was fitted, so there is nothing to examine."
        return Examined(no_law, no_law, no_law, no_law)
    chosen = fits[0]
    usable, _ = usable_runs(frame, chosen.objective_column)

    def moved() -> Sensitivity:
        return sensitivity(chosen, frame, asked_models(usable), cluster=cluster, seed=seed, starts=REFIT_STARTS)

    def record() -> Rolling:
        return rolled or roll(
            [one.law for one in fits],
            frame,
            objective=chosen.objective_column,
            cluster=cluster,
            resamples=ROLLED_RESAMPLES,
            starts=ROLLED_STARTS,
            seed=seed,
        )

    return Examined(
        sensitivity=_or_why(moved, "The sensitivity of the answer cannot be computed"),
        rolling=_or_why(record, "Held-out errors over several cuts of compute cannot be computed"),
        approaches=_or_why(
            lambda: three_approaches(frame, fits, cluster=cluster, seed=seed),
            "There is no best split of compute to compare",
        ),
        speedup=_or_why(lambda: routed_speedup(usable, fits, seed=seed), "There is no speedup to show"),
    )


def _or_why(examination: Callable[[], T], words: str) -> T | str:
    try:
        return examination()
    except InvalidInputError as error:
        return f"{words}: {error}."


def asked_models(usable: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the largest run, and the same at ``FURTHER`` times its compute, as rows of a runs table.

    Both sizes and tokens grow, each by the square root; where all runs had the same tokens, sizes alone.
    """
    order = next((name for name in ("train_flops", *SIZES) if name in usable.columns), None)
    if order is None or usable.is_empty():
        return {}
    largest = usable.sort(pl.col(order).cast(pl.Float64), nulls_last=False).tail(1)
    has_tokens = "tokens" in usable.columns and usable["tokens"].n_unique() > 1
    growth = dict.fromkeys(SIZES, FURTHER**0.5 if has_tokens else FURTHER)
    growth |= {"tokens": FURTHER**0.5 if has_tokens else 1.0, "train_flops": FURTHER}
    columns = [pl.col(name).cast(pl.Float64) * factor for name, factor in growth.items() if name in usable.columns]
    return {"loss of the largest run": largest, f"loss at {FURTHER:g} x its compute": largest.with_columns(columns)}


def three_approaches(frame: pl.DataFrame, fits: Sequence[Fit], *, cluster: str | None, seed: int) -> Approaches:
    """Return the best split of compute asked three ways, Approach 3 with the first law that has one.

    Raises:
        InvalidInputError: no law has one, or the table lacks sizes, tokens or compute.
    """
    failure: InvalidInputError | None = None
    for fitted in fits:
        usable, _ = complete_runs(fitted.law, usable_runs(frame, fitted.objective_column)[0])
        flops = compute_of(usable)
        if flops is None:
            continue
        if "tokens" in usable.columns and usable["tokens"].n_unique() < 2:
            raise InvalidInputError("all runs were trained on the same number of tokens, and say nothing about it")
        at = [*np.geomspace(flops.min(), flops.max(), SPLITS), FURTHER * flops.max()]
        try:
            return compare_approaches(fitted, frame, at=at, cluster=cluster, resamples=SPLIT_RESAMPLES, seed=seed)
        except InvalidInputError as error:
            failure = failure or error
    raise failure or InvalidInputError("the table has no training compute")


def routed_speedup(usable: pl.DataFrame, fits: Sequence[Fit], *, seed: int) -> Speedup:
    """Return how much less compute the best routed design needs than a dense model of its size and tokens.

    The designs are runs: the routed one of least loss at the largest size and its longest horizon, and the dense one
    that is nearest to it in size and tokens. Each keeps its tokens a parameter, or, where all runs had the same tokens,
    those. The law is the first that tells them apart.

    Raises:
        InvalidInputError: there are no dense or no routed runs, or no law tells them apart.
    """
    size = next((name for name in ACTIVE if name in usable.columns), None)
    if size is None or "tokens" not in usable.columns or compute_of(usable) is None:
        raise InvalidInputError("the table lacks sizes, tokens or training compute")
    dense = dense_runs(usable)
    if not dense.any() or dense.all():
        raise InvalidInputError("it compares dense runs with routed ones, and the table has one kind only")
    column = fits[0].objective_column
    top = usable.filter(~dense).sort([size, "tokens", column], descending=[True, True, False]).head(1)
    path = at_its_ratio if usable["tokens"].n_unique() > 1 else at_its_tokens
    far = sum((pl.col(name).cast(pl.Float64) / float(top[name][0])).log().abs() for name in (size, "tokens"))
    near = usable.filter(dense).sort(far, column).head(1)
    for fitted in fits:
        if not _tells_apart(fitted, near, top):
            continue
        sides = []
        for name, run, rows in (("dense", near, dense), ("routed", top, ~dense)):
            flops = compute_of(complete_runs(fitted.law, usable.filter(rows))[0])
            assert flops is not None, "sizes and tokens, or the compute itself, are there"
            sides.append(Side(name, fitted, path(run), (float(flops.min()), float(flops.max()))))
        return speedup(sides[0], sides[1], seed=seed)
    raise InvalidInputError("no law that was fitted tells a routed model from a dense one")


def at_its_tokens(run: pl.DataFrame) -> Path:
    """Return the path of a design whose sizes grow with compute while its tokens stay.

    Args:
        run: one row of a runs table with its compute.
    """
    flops = compute_of(run)
    assert flops is not None, "asked of runs that have it"
    grown = [name for name in SIZES if name in run.columns]

    def path(train_flops: Array) -> pl.DataFrame:
        factor = pl.Series(train_flops / flops[0])
        rows = run.select(pl.all().repeat_by(len(train_flops)).explode())
        sizes = (pl.col(name).cast(pl.Float64) * factor for name in grown)
        return rows.with_columns(*sizes, train_flops=pl.Series(train_flops))

    return path


def _tells_apart(fitted: Fit, dense: pl.DataFrame, routed: pl.DataFrame) -> bool:
    """Whether a law says another loss for a dense model of the same active size and tokens."""
    try:
        same = [name for name in ("n_active", "n_active_non_embedding", "tokens") if name in routed.columns]
        moved = dense.with_columns(routed[name].alias(name) for name in same)
        one, other = (fitted.log_means(rows)[0][0] for rows in (moved, routed))
    except InvalidInputError:
        return False
    return bool(abs(one - other) > BLIND)
