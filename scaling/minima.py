"""Where the loss is lowest at one compute: the best run of a bin (Approach 1) or the bottom of a parabola (Approach 2).

Both are computed for a batch of tables at once: the runs are the same, their losses or their weights differ. A group of
runs without a minimum that can be trusted is marked with its fault.

Source: Hoffmann et al. 2022, arXiv 2203.15556, sections 3.1 and 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moe_search.scaling.budgets import Rows
from moe_search.scaling.law import Array

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.intp]

FEWEST_RUNS: Final = 4
"""Of a group; a parabola through three runs passes through all of them, noise included."""
FEWEST_SIZES: Final = 3
SAME_SIZE: Final = 0.01
"""Of the logarithm: sizes nearer than about one percent are one size."""
LEAST_DETERMINANT: Final = 1e-9
"""Of the normal matrix over the product of its diagonal: with two different sizes it is rounding error."""
FINE, FEW_RUNS, FEW_SIZES, NOT_CONVEX, AT_EDGE = range(5)
FAULTS: Final = (
    "",
    f"fewer than {FEWEST_RUNS} runs",
    f"fewer than {FEWEST_SIZES} different sizes",
    "the loss over log size is not convex",
    "the lowest loss is at the edge of the sizes that were run, or beyond it",
)


@dataclass(frozen=True)
class Runs:
    """The runs, in natural logarithms, each (runs,)."""

    log_flops: Array
    log_size: Array
    log_tokens: Array


@dataclass(frozen=True)
class Minima:
    """The lowest loss of each group in each table; all (batch, groups)."""

    log_flops: Array
    log_size: Array
    log_tokens: Array
    loss: Array
    fault: Counts
    """Index into ``FAULTS``."""


def best_runs(runs: Runs, loss: Array, weights: Array, groups: Sequence[Rows]) -> Minima:
    """Return the run of lowest loss of each group.

    It is at an edge if it is the smallest or the largest of its group: a better size may then not have been run.

    Args:
        runs: the runs.
        loss: (batch, runs).
        weights: (batch, runs); a run of weight 0 is not there.
        groups: of runs with nearly equal compute.
    """
    columns = []
    for rows in groups:
        there = weights[:, rows] > 0
        losses = np.where(there, loss[:, rows], np.inf)
        best = rows[np.argmin(losses, axis=1)]
        low, high = _range(runs.log_size[rows], there)
        inside = (runs.log_size[best] > low + SAME_SIZE) & (runs.log_size[best] < high - SAME_SIZE)
        fault = np.where(inside, FINE, AT_EDGE)
        fault = _too_few(runs.log_size[rows], there, fault)
        columns.append((runs.log_flops[best], runs.log_size[best], runs.log_tokens[best], losses.min(axis=1), fault))
    return _stacked(columns)


def parabolas(runs: Runs, loss: Array, weights: Array, groups: Sequence[Rows], *, within: float = np.inf) -> Minima:
    """Return the bottoms of parabolas through loss over log size and loss over log tokens, by least squares.

    The compute of a group is the mean of its runs' logarithms, and its loss is that of the parabola over size.

    Args:
        runs: the runs.
        loss: (batch, runs).
        weights: (batch, runs), non-negative.
        groups: of runs with nearly equal compute.
        within: runs whose size is within this factor of that of the best run of their group take part.
    """
    columns = []
    for rows in groups:
        weight, losses = weights[:, rows], np.broadcast_to(loss, weights.shape)[:, rows]
        best = rows[np.argmin(np.where(weight > 0, losses, np.inf), axis=1)]
        near = np.abs(runs.log_size[rows] - runs.log_size[best][:, None]) <= np.log(within) + SAME_SIZE
        weight = np.where(near, weight, 0.0)
        there = weight > 0
        by_size, by_tokens = (_parabola(x[rows], losses, weight) for x in (runs.log_size, runs.log_tokens))
        inside = np.ones(len(there), dtype=bool)
        for x, (bottom, _, _) in ((runs.log_size, by_size), (runs.log_tokens, by_tokens)):
            low, high = _range(x[rows], there)
            inside &= (bottom >= low) & (bottom <= high)
        convex = (by_size[2] > 0) & (by_tokens[2] > 0)
        fault = np.where(convex, np.where(inside, FINE, AT_EDGE), NOT_CONVEX)
        fault = _too_few(runs.log_size[rows], there, fault)
        total = np.maximum(weight.sum(axis=1), 1e-300)
        columns.append((weight @ runs.log_flops[rows] / total, by_size[0], by_tokens[0], by_size[1], fault))
    return _stacked(columns)


def line(x: Array, y: Array, used: Mask, *, fewest: Counts) -> tuple[Array, Array]:
    """Return slope and intercept (batch,) of the least-squares line through the points that are used.

    Args:
        x: (batch, points).
        y: (batch, points).
        used: (batch, points).
        fewest: points, (batch,) or one number; with fewer both are nan.
    """
    count = used.sum(axis=1)
    some = np.maximum(count, 1)
    mean_x, mean_y = (np.where(used, values, 0.0).sum(axis=1) / some for values in (x, y))
    dx, dy = (np.where(used, values - mean[:, None], 0.0) for values, mean in ((x, mean_x), (y, mean_y)))
    spread = (dx**2).sum(axis=1)
    known = (count >= fewest) & (spread > 1e-12)
    slope = np.where(known, (dx * dy).sum(axis=1) / np.where(known, spread, 1.0), np.nan)
    return slope, mean_y - slope * mean_x


def sizes_of(log_size: Array) -> int:
    """Return the number of different sizes."""
    return len(np.unique(np.round(log_size / SAME_SIZE)))


def _parabola(x: Array, loss: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Abscissa, loss and curvature of the bottom, each (batch,); nan where three different points are missing."""
    middle = x.mean()
    width = max(float(np.ptp(x)), 1e-9)
    powers = ((x - middle) / width)[None, :] ** np.arange(3)[:, None]  # (3, runs)
    normal = np.einsum("bn,in,jn->bij", weight, powers, powers)
    right = np.einsum("bn,in,bn->bi", weight, powers, np.broadcast_to(loss, weight.shape))
    scale = np.prod(np.diagonal(normal, axis1=1, axis2=2), axis=1)
    known = np.linalg.det(normal) > LEAST_DETERMINANT * scale
    normal = np.where(known[:, None, None], normal, np.eye(3))
    level, slope, curvature = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T
    bent = np.where(known & (curvature != 0), curvature, np.nan)
    bottom = -0.5 * slope / bent
    return middle + width * bottom, level + 0.5 * slope * bottom, bent / width**2


def _range(x: Array, there: Mask) -> tuple[Array, Array]:
    """Lowest and highest (batch,) of the values that are there."""
    return np.where(there, x, np.inf).min(axis=1), np.where(there, x, -np.inf).max(axis=1)


def _too_few(log_size: Array, there: Mask, fault: Counts) -> Counts:
    """The faults (batch,) with those of groups that are too small in place of others.

    A group of enough runs counts as such in every resample; only its different sizes have to be there.
    """
    labels = np.unique(np.round(log_size / SAME_SIZE), return_inverse=True)[1]
    present = np.stack([there[:, labels == label].any(axis=1) for label in range(labels.max() + 1)], axis=1)
    fault = np.where(present.sum(axis=1) < FEWEST_SIZES, FEW_SIZES, fault)
    return np.full_like(fault, FEW_RUNS) if len(log_size) < FEWEST_RUNS else fault


def _stacked(columns: Sequence[tuple[Array, Array, Array, Array, Counts]]) -> Minima:
    log_flops, log_size, log_tokens, loss, fault = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return Minima(log_flops, log_size, log_tokens, loss, fault.astype(np.intp))
