"""The customary ladder: one grid of designs at every cheaper scale, a parabola at each, a line to the target.

The grid is spread evenly (a design as far from the others as can be, one after the other); each scale gets an equal
share of ``COST``, from the cheapest, and at least ``FEWEST`` runs. At each scale a quadratic of the features is fitted
with a small ridge; its value for every design of the target is extrapolated along the logarithm of cost, by a line
through the scales (with one scale: taken as it is), and the target runs the designs in that order.
"""

import numpy as np

from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import Array

COST = 1.0
"""Of the whole grid, in runs at the target."""
FEWEST, MOST = 5, 64
RIDGE = 1e-2


class IsoFlopGrid:
    """No result is looked at before the grid is complete."""

    def __init__(self) -> None:
        self._order: list[int] = []

    def propose(self, view: View) -> list[Run]:
        """Return the grid, then one run at the target at a time."""
        if view.target == 0:
            left = view.open_designs(0)
            return [(0, int(i)) for i in _spread(view, left, 1)] if len(left) else []
        if not view.runs:
            return _grid(view)
        if not self._order:
            ends = view.table.options(view.target)
            self._order = ends[np.argsort(_extrapolated(view, ends), kind="stable")].tolist()
        return view.first_left(self._order)


def _grid(view: View) -> list[Run]:
    runs: list[Run] = []
    for scale in range(view.target):
        options = view.table.options(scale)
        affordable = int(COST / view.target / float(np.median(view.table.cost[scale, options])))
        runs += [(scale, int(i)) for i in _spread(view, options, min(max(affordable, FEWEST), MOST))]
    return runs


def _spread(view: View, designs: np.ndarray, count: int) -> list[int]:
    """Return ``count`` of the designs, each as far as can be from those before it; the first by chance."""
    features = view.table.features[designs]
    chosen = [int(view.rng.integers(len(designs)))]
    distance = ((features - features[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(designs)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        distance[chosen] = -1.0
    return [int(designs[k]) for k in chosen]


def _extrapolated(view: View, ends: np.ndarray) -> Array:
    """Loss (ends,) that the quadratics of the scales foresee at the target."""
    scales = sorted(set(view.fidelity.tolist()))
    at_scales = []
    for scale in scales:
        ran = view.fidelity == scale
        at_scales.append(
            _quadratic(view.table.features[view.design[ran]], view.observed[ran], view.table.features[ends])
        )
    levels = np.log([np.nanmedian(view.table.cost[scale]) for scale in (*scales, view.target)])
    if len(scales) == 1:
        return at_scales[0]
    line = np.stack([np.ones(len(scales)), levels[:-1] - levels[-1]], axis=1)
    predicted: Array = np.linalg.lstsq(line, np.stack(at_scales), rcond=None)[0][0]
    return predicted


def _quadratic(x: Array, y: Array, new: Array) -> Array:
    """Predict (new,) by a ridge regression on the features and their squares."""
    a, b = (np.concatenate([part, part**2], axis=1) for part in (x, new))
    center, scale = a.mean(axis=0), np.maximum(a.std(axis=0), 1e-9)
    a, b = (a - center) / scale, (b - center) / scale
    slope = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ (y - y.mean()))
    predicted: Array = y.mean() + b @ slope
    return predicted


POLICY = IsoFlopGrid
