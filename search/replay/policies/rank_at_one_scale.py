"""Rank designs at one cheaper scale and run the target in that order (DataDecide, Magnusson et al. 2025).

The scale is the dearest below the target at which ``MOST`` designs cost no more than one run at the target, else the
cheapest. A design of the target that was not run there takes the place of the nearest design that was.
"""

import numpy as np

from moe_search.search.replay.policy import Run, View

MOST = 128
COST = 1.0
"""Of all of them, in runs at the target."""


class RankAtOneScale:
    """No model."""

    def __init__(self) -> None:
        self._order: list[int] = []

    def propose(self, view: View) -> list[Run]:
        """Return the proxies, then one run at the target at a time."""
        table, target = view.table, view.target
        if target == 0:
            left = view.open_designs(target)
            return [(target, int(view.rng.choice(left)))] if len(left) else []
        if not view.runs:
            return _proxies(view)
        if not self._order:
            ran, losses = view.design, np.array(view.losses)
            ends = table.options(target)
            apart = ((table.features[ends][:, None, :] - table.features[ran][None, :, :]) ** 2).sum(axis=2)
            rank = losses[apart.argmin(axis=1)]
            self._order = ends[np.lexsort((apart.min(axis=1), rank))].tolist()
        return view.first_left(self._order)


def _proxies(view: View) -> list[Run]:
    table, target = view.table, view.target
    for scale in range(target - 1, -1, -1):
        options = table.options(scale)
        shared = np.intersect1d(options, table.options(target))
        chosen = shared if len(shared) >= min(MOST, len(table.options(target))) else options
        chosen = view.rng.permutation(chosen)[:MOST]
        if table.cost[scale, chosen].sum() <= COST or scale == 0:
            within = np.cumsum(table.cost[scale, chosen]) <= max(COST, float(table.cost[scale, chosen[0]]))
            return [(scale, int(i)) for i in chosen[within]]
    raise AssertionError("the cheapest scale always has an answer")


POLICY = RankAtOneScale
