"""Budgets: groups of runs with nearly equal training compute, as iso-FLOP curves need them.

A table does not say which runs were meant to have one budget, and their compute differs by rounding, by embeddings or,
in digitised figures, by reading error. Runs ordered by compute are split at their widest gap (in log FLOPs), each part
again, until no part spans more than a width. Tight groups with gaps between them, whatever their number, come out
whole, stragglers are peeled off their ends; a table without budgets comes apart into groups of a few runs, which are
then of no use, and are said to be.
"""

import numpy as np
import numpy.typing as npt

from moe_search.scaling.law import Array

Rows = npt.NDArray[np.intp]
"""Indices of the runs of one group."""

BUDGET_DECADES = 0.1
"""Widest span of a budget in powers of ten of FLOPs: 26 %. Nine budgets of Hoffmann et al. 2022, whose compute was read
off the colour of a marker, are told apart at 0.08 to 0.15."""
BIN_DECADES = 0.25
"""Widest span of a bin of the lower envelope."""


def group_by_compute(train_flops: Array, decades: float) -> tuple[Rows, ...]:
    """Return the groups, ascending in compute; every run is in one.

    Args:
        train_flops: (runs,), positive.
        decades: the widest span of a group, in powers of ten.
    """
    order = np.argsort(train_flops, kind="stable")
    ordered = np.log10(train_flops[order])
    groups, open_spans = [], [(0, len(order))]
    while open_spans:
        first, last = open_spans.pop()
        if first == last:
            continue
        if ordered[last - 1] - ordered[first] <= decades:
            groups.append((first, last))
            continue
        cut = first + 1 + int(np.argmax(np.diff(ordered[first:last])))
        open_spans += [(first, cut), (cut, last)]
    return tuple(order[first:last] for first, last in sorted(groups))
