"""Which choices are worth having when several things count: those that no other beats in all of them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def frontier(losses: npt.ArrayLike, costs: npt.ArrayLike, *, saving: float = 0.0) -> list[int]:
    """Return the choices on the Pareto front of loss and costs, least loss first.

    With a ``saving``, the front is thinned: whoever loses more must save at least this share of one of the costs,
    against *each* of those that lose less and are kept.

    Args:
        losses: (choices,); those that are not finite are left out.
        costs: (choices, costs), positive.
        saving: between 0 and 1.
    """
    return list(_walk(np.asarray(losses, dtype=np.float64), np.asarray(costs, dtype=np.float64), saving))


def _walk(losses: npt.NDArray[np.float64], costs: npt.NDArray[np.float64], saving: float) -> Iterator[int]:
    kept = np.empty((0, costs.shape[1]))
    order = np.lexsort((*costs.T[::-1], losses))
    for index in order[np.isfinite(losses[order])]:
        own = costs[index]
        enough = own <= (1 - saving) * kept if saving else own < kept
        if enough.any(axis=1).all():
            kept = np.vstack([kept, own])
            yield int(index)
