"""Groups of runs against each other, as ``fit --compare`` asks: the effective speedup of each over the first.

A law of compute alone is fitted along each group's runs as they are. With a law of sizes and tokens each group grows
from its run of the largest compute (the one of least loss, where there are several), at that run's tokens a parameter;
where all runs of the table had the same tokens, its sizes alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from moe_search.experiments.examining import at_its_tokens
from moe_search.scaling.calibration import widen
from moe_search.scaling.extrapolation import compute_of
from moe_search.scaling.groups import Group, fit_groups
from moe_search.scaling.law import Array, Law
from moe_search.scaling.speedup import Path, Side, Speedup, at_its_ratio, by_compute, speedup
from moe_search.spaces.errors import InvalidInputError


def groups_of(conditions: Sequence[str]) -> tuple[str, ...]:
    """Return the groups of ``--compare``, the reference first: of one condition, the runs that do not meet it."""
    once = tuple(dict.fromkeys(conditions))
    return (f"NOT ({once[0]})", once[0]) if len(once) == 1 else once


def compare_groups(
    law: Law,
    frame: pl.DataFrame,
    conditions: Sequence[str],
    *,
    train_flops: Sequence[float] = (),
    objective: str | None,
    cluster: str | None,
    shared: bool,
    resamples: int,
    seed: int,
) -> tuple[Speedup, ...]:
    """Return the effective speedup of each group over the first, by one law that is fitted to each.

    Args:
        law: the law.
        frame: a runs table.
        conditions: Polars SQL expressions, one a group; no run meets two of them.
        train_flops: of the reference, at which the speedups are told; none: over the runs, and ten times beyond.
        objective: as in :func:`~moe_search.scaling.fit.fit`.
        cluster: the resampling unit; one that has runs in several groups is drawn for all of them.
        shared: whether the groups have one irreducible loss, for a law that integrates over it.
        resamples: of the whole table.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: a group is empty or too small, groups share runs, the table has no compute, or the law
            integrates over nothing that groups could share.
    """
    groups = fit_groups(
        law,
        frame,
        conditions,
        objective=objective,
        cluster=cluster,
        shared=shared,
        resamples=resamples,
        seed=seed,
    )
    sides = [_side(group, frame, cluster=cluster, seed=seed) for group in groups]
    at = np.array(train_flops, dtype=np.float64) if train_flops else None
    warnings = [f"{group.name}: {line}" for group in groups for line in group.fitted.warnings]
    notes = [] if _reads_compute_alone(law) else ["each side grows from its run of the largest compute"]
    found = [speedup(sides[0], side, at, seed=seed) for side in sides[1:]]
    return tuple(replace(one, notes=(*notes, *one.notes, *_of(one, warnings))) for one in found)


def _of(found: Speedup, warnings: Sequence[str]) -> list[str]:
    return [line for line in warnings if line.startswith((f"{found.reference}: ", f"{found.other}: "))]


def _side(group: Group, frame: pl.DataFrame, *, cluster: str | None, seed: int) -> Side:
    """A group with its law widened by its own record, and the path along which it grows."""
    flops = compute_of(group.runs)
    if flops is None:
        raise InvalidInputError(
            "groups are compared at equal loss by their training compute, and some runs have none",
            where="--compare",
            fix="--map 'train_flops=6 * n_active * tokens'",
        )
    fitted = widen(group.fitted, group.runs, cluster=cluster, seed=seed)
    path: Path = by_compute
    if not _reads_compute_alone(fitted.law):
        place = np.lexsort((group.runs[fitted.objective_column].cast(pl.Float64).to_numpy(), -flops))[0]
        run = group.runs[int(place)]
        path = (
            at_its_ratio(run) if "tokens" not in frame.columns or frame["tokens"].n_unique() > 1 else at_its_tokens(run)
        )
    return Side(group.name, fitted, path, (float(flops.min()), float(flops.max())))


def _reads_compute_alone(law: Law) -> bool:
    try:
        law.variables(by_compute(_ONE))
    except InvalidInputError:
        return False
    return True


_ONE: Array = np.array([1e21])
