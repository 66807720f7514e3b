"""What stands in the place of the law where a surrogate has none: a smooth trend over sizes and tokens.

    log L = c + a log N + b log D + p (log N)^2 + q (log D)^2,     all from the middle of the data

with normal priors on the coefficients: what a Gaussian process, or a regression of the logarithm of the loss, that
knows nothing of scaling laws would assume. It has no asymptote, so it follows the data and does not extrapolate far.
"""

from typing import NamedTuple, Protocol

import numpy as np

from moe_search.search.law_mean import Array

PRIOR_SPREAD = np.array([1.0, 0.3, 0.3, 0.05, 0.05])
"""Standard deviations of c, a, b, p, q."""


class Mean(Protocol):
    """The mean over scales of a surrogate, with its uncertainty: a law, or a trend."""

    def linearised(self, log_n: Array, log_d: Array) -> tuple[Array, Array]:
        """Return the prior mean ``(n,)`` of log loss and the root ``(n, 5)`` of its covariance."""


class Trend(NamedTuple):
    """The trend's prior."""

    log_n: float
    log_d: float
    """Natural logarithms in the middle of the data."""
    level: float
    """Log loss there."""

    def linearised(self, log_n: Array, log_d: Array) -> tuple[Array, Array]:
        """Return the prior mean ``(n,)`` of log loss and the root ``(n, 5)`` of its covariance."""
        u, v = log_n - self.log_n, log_d - self.log_d
        return np.full(len(u), self.level), np.column_stack([np.ones_like(u), u, v, u**2, v**2]) * PRIOR_SPREAD


def trend_of(log_n: Array, log_d: Array, log_loss: Array) -> Trend:
    """Return the trend about observations ``(n,)`` each."""
    return Trend(float(np.mean(log_n)), float(np.mean(log_d)), float(np.median(log_loss)))
