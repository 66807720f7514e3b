"""Points of the probability simplex: uniform draws, draws around a point, corners, and projection under bounds.

All functions work on rows: ``(n, n_domains)`` non-negative weights, each row summing to one.
"""

import numpy as np


def from_uniform(u: np.ndarray) -> np.ndarray:
    """Map points of the unit cube to the simplex uniformly.

    -log(u) is exponential, and normalised exponentials are Dirichlet(1, ..., 1): no rejection, and a low-discrepancy
    sequence stays one.

    Args:
        u: ``(n, n_domains)`` in [0, 1).

    Returns:
        Weights ``(n, n_domains)``.
    """
    exponential = -np.log(np.clip(u, 1e-12, 1 - 1e-12))
    return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True))


def around(centre: np.ndarray, n: int, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """Draw from a Dirichlet distribution whose mean is ``centre`` (slightly softened, so that zeros can return).

    Args:
        centre: weights ``(n_domains,)``.
        n: draws.
        concentration: sum of the Dirichlet's parameters; the standard deviation of a weight w is
            sqrt(w (1 - w) / (concentration + 1)).
        rng: source of randomness.

    Returns:
        Weights ``(n, n_domains)``.
    """
    softened = 0.99 * centre + 0.01 / len(centre)
    return rng.dirichlet(concentration * softened, size=n)


def corners(n_domains: int, share: float = 0.8) -> np.ndarray:
    """Return one mixture per domain, ``(n_domains, n_domains)``: ``share`` for it, the rest equal over all others."""
    if n_domains == 1:
        return np.ones((1, 1))
    rest = (1 - share) / (n_domains - 1)
    return np.full((n_domains, n_domains), rest) + np.eye(n_domains) * (share - rest)


def project(weights: np.ndarray, floor: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """Return the nearest points (Euclidean) with ``floor <= w <= cap`` that sum to one.

    The solution is clip(w - t, floor, cap) with the shift t at which the row sums to one; the sum is piecewise linear
    in t, with its knots where a weight meets a bound.

    Args:
        weights: ``(n, n_domains)``.
        floor: least weights ``(n_domains,)``, summing to at most one.
        cap: largest weights ``(n_domains,)``, summing to at least one.

    Returns:
        Weights ``(n, n_domains)``.
    """
    rows = np.empty_like(weights, dtype=float)
    for index, row in enumerate(weights):
        knots = np.sort(np.concatenate([row - cap, row - floor]))
        sums = np.clip(row - knots[:, None], floor, cap).sum(axis=1)
        shift = np.interp(1.0, sums[::-1], knots[::-1])  # sums fall from cap.sum() to floor.sum() as the shift grows
        rows[index] = np.clip(row - shift, floor, cap)
    return rows
