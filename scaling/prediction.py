"""Predicted losses with their uncertainty, as joint draws."""

from dataclasses import dataclass

import numpy as np

from moe_search.scaling.law import Array

LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True)
class Prediction:
    """Losses of some rows. A draw is one possible world: its column holds the losses of all rows in that world."""

    mean: Array
    """(rows,): at the point estimate."""
    draws: Array
    """(rows, draws)."""

    def interval(self, level: float) -> tuple[Array, Array]:
        """Return the central interval that holds ``level`` of the draws: low and high, each (rows,)."""
        tail = (1 - level) / 2
        finite = np.minimum(self.draws, LARGEST)  # between two infinite draws there is no number to interpolate to
        low, high = np.quantile(finite, [tail, 1 - tail], axis=1)
        return np.where(low < LARGEST, low, np.inf), np.where(high < LARGEST, high, np.inf)

    @property
    def low95(self) -> Array:
        """Lower end of the 95 % interval (rows,)."""
        return self.interval(0.95)[0]

    @property
    def high95(self) -> Array:
        """Upper end of the 95 % interval (rows,)."""
        return self.interval(0.95)[1]
