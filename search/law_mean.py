"""The scaling law inside the surrogate: a mean over scales, and the uncertainty of its parameters.

The Chinchilla form L(N, D) = E + A (N/N0)^-alpha + B (D/D0)^-beta, with N0 and D0 in the middle of the data so that
E, A and B are the three parts of a loss that was observed. Their prior is weak and relative to that loss, so it holds
for any tokenizer and unit; theta is its internal vector (logarithms of E, A, B).

With theta ~ N(theta0, S) and the law linearised about the robust fit t,

    log L(x) ~ Normal(m(x; t) + J(x) (theta0 - t),  J(x) S J(x')')

is a Gaussian process. Conditioning it on the same data that gave t is no double counting, because t only says where the
law is linearised: prior mean and covariance are those before any data (one Gauss-Newton step about the optimum).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from moe_search.scaling.laws import get_law

Array = npt.NDArray[np.float64]

LAW = get_law("chinchilla")
PRIOR_SHARES = np.array([0.5, 0.25, 0.25])
"""Of the typical observed loss: what no scale removes, what parameters are missing, what tokens are missing."""
PRIOR_EXPONENT = 0.33
PRIOR_SPREAD = np.array([0.5, 0.8, 0.8, 0.12, 0.12])
"""Standard deviations of log E, log A, log B, alpha, beta. Published exponents lie between 0.2 and 0.5."""
EXPONENT_GAP = 0.04
"""Standard deviation of alpha - beta. However large the exponents, published fits that tune every size agree that
compute is best split about evenly, N ~ C^0.46 to C^0.54 (Hoffmann, Besiroglu, Porian, Tian). A small ladder says almost
nothing on it, and at 1e9 times its FLOPs exponents 0.1 apart move tokens per parameter 20-fold."""
_CORRELATION = np.eye(5)
_CORRELATION[3, 4] = _CORRELATION[4, 3] = 1 - EXPONENT_GAP**2 / (2 * PRIOR_SPREAD[3] * PRIOR_SPREAD[4])
PRIOR_ROOT = np.linalg.cholesky(_CORRELATION * np.outer(PRIOR_SPREAD, PRIOR_SPREAD))
"""Lower root of the prior covariance S."""
LEAST_SCATTER = 5e-3
"""Least standard deviation of log loss about the law: half a percent."""


class LawMean(NamedTuple):
    """A fitted law with its prior. Inputs are natural logarithms of active parameters and tokens, ``(n,)`` each."""

    log_n: float
    """log N0."""
    log_d: float
    """log D0."""
    prior: Array
    """theta0 ``(5,)``."""
    theta: Array
    """t ``(5,)``."""
    scatter: float
    """Robust standard deviation of the fitted log losses about the law: designs, and noise."""

    def linearised(self, log_n: Array, log_d: Array) -> tuple[Array, Array]:
        """Return the prior mean ``(n,)`` of log loss and the root J S^1/2 ``(n, 5)`` of its covariance."""
        value, jacobian = _law(self.theta, log_n - self.log_n, log_d - self.log_d)
        return value + jacobian @ (self.prior - self.theta), jacobian @ PRIOR_ROOT

    def value(self, log_n: Array, log_d: Array) -> Array:
        """Return the fitted law's log loss ``(n,)``."""
        return _law(self.theta, log_n - self.log_n, log_d - self.log_d)[0]


def fit_law_mean(log_n: Array, log_d: Array, log_loss: Array) -> LawMean:
    """Fit the law to observations ``(n,)`` each, robustly (soft L1) and under its prior.

    One observation is enough: the prior fills what the data do not say.
    """
    centre_n, centre_d = float(np.mean(log_n)), float(np.mean(log_d))
    u, v = log_n - centre_n, log_d - centre_d
    prior = np.append(np.log(PRIOR_SHARES) + float(np.median(log_loss)), [PRIOR_EXPONENT, PRIOR_EXPONENT])
    theta, scatter = prior, 0.05
    for _ in range(3):  # the scatter sets the weight of the data against the prior, and follows from the fit

        def robust(theta: Array, scatter: float = scatter) -> Array:
            scaled = (_law(theta, u, v)[0] - log_loss) / scatter
            soft = np.sign(scaled) * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
            return np.concatenate([soft, np.linalg.solve(PRIOR_ROOT, theta - prior)])

        theta = least_squares(robust, theta, x_scale=PRIOR_SPREAD, max_nfev=60).x
        residual = log_loss - _law(theta, u, v)[0]
        scatter = max(1.4826 * float(np.median(np.abs(residual - np.median(residual)))), LEAST_SCATTER)
    return LawMean(centre_n, centre_d, prior, theta, scatter)


def _law(theta: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return log loss ``(n,)`` and Jacobian ``(n, 5)`` at centred log parameters and log tokens."""
    value, jacobian = LAW.log_loss_and_jacobian(theta[None, :], {"N": np.exp(u), "D": np.exp(v)})
    return value[0], np.ascontiguousarray(jacobian[0].T)
