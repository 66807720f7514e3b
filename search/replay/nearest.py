"""From a point of the feature space to a design that a table holds."""

import numpy as np
import numpy.typing as npt

from moe_search.search.replay.policy import View
from moe_search.search.replay.task import Array


def point_of(view: View, unit: Array) -> Array:
    """Return the features (features,) of a point (features,) of the unit cube: its mixture part is scaled to sum 1."""
    width = view.table.mixture_width
    weights = unit[:width] / max(float(unit[:width].sum()), 1e-12)
    return np.concatenate([np.sqrt(weights), unit[width:]])


def nearest(view: View, point: Array, designs: npt.NDArray[np.intp]) -> int:
    """Return the design of ``designs`` whose features are nearest to ``point`` (features,)."""
    squared = ((view.table.features[designs] - point) ** 2).sum(axis=1)
    return int(designs[int(squared.argmin())])
