"""How the estimates of a law's parameters move together over its resamples."""

import numpy as np

from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array


def correlation(fit: Fit) -> Array:
    """Return the correlation (parameters, parameters) of the draws in internal units; NaN where one does not vary."""
    spread = np.sqrt(np.diag(fit.covariance))
    known = np.where(spread > 0, spread, np.nan)
    matrix: Array = np.clip(fit.covariance / np.outer(known, known), -1.0, 1.0)
    return matrix
