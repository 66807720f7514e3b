"""What a mixture of domains does to the loss from finite tokens, as one factor of a law."""

import numpy as np

from moe_search.scaling.law import Array


def mixing(weights: Array, beta: Array, tau: Array) -> tuple[Array, Array | float, Array | float]:
    """Return ln M and its derivatives by beta and tau, each (batch, runs), or zeros for uniform mixtures.

        M(w) = mean over domains of (tau + (1 - tau) w_i / w_uniform)^-beta

    A domain learns from its own tokens and, at the rate tau, from all others; M is 1 for the uniform mixture.

    Args:
        weights: (runs, domains), over the uniform weight.
        beta: (batch, 1), the exponent of tokens.
        tau: (batch, 1), the share of a token's use in other domains.
    """
    if np.all(weights == 1):
        return np.zeros((1, 1)), 0.0, 0.0
    use = tau[:, :, None] + (1 - tau[:, :, None]) * weights  # (batch, runs, domains)
    power = use ** -beta[:, :, None]
    total = power.sum(axis=2)
    by_beta = -(power * np.log(use)).sum(axis=2) / total
    by_tau = -beta * (power / use * (1 - weights)).sum(axis=2) / total
    return np.log(total / weights.shape[1]), by_beta, by_tau
