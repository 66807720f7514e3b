"""Our joint law: parameters, tokens, expansion, granularity and mixture, nested and held by weak priors.

    L = E + A (N/N0)^-alpha X^(delta + zeta ln(N/N0)) G^(kappa + lambda ln G) + B (D/D0)^-beta X^omega M(w)
    M(w) = mean over domains of (tau + (1 - tau) w_i / w_uniform)^-beta

X is the expansion (1 for a dense model), G the granularity, w the mixture. Each factor is 1 for a dense model on the
uniform mixture, so that the law is ``chinchilla`` there, and each comes from a law that survived its paper's tests:
powers of the expansion with an interaction in size are ``joint_moe`` (without its saturation), the effect of G on the
parameter term is the first order of ``fine_grained``, its optimum is that of ``efficiency_leverage``. M says that a
domain learns from its own tokens and, at the rate tau, from all others.

The reference sizes N0 and D0 are constants, chosen among proxies: there the amplitudes are losses one can imagine, so
that a prior on them means something. Priors are weak and part of every fit, because a campaign has 30 to 150 small
runs: what the data do not say, the prior says, with its full width in every interval, and the fit withholds the value.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import optional, positive, relative_weights
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, coefficient, exponent

N0, D0 = 1e6, 1e8
"""Reference active parameters without embeddings, and tokens."""


class Joint(Law):
    """Few parameters for few runs; the published laws are near special cases."""

    name = "joint"
    equation = (
        "L = E + A (N/1e6)^-alpha X^(delta + zeta ln(N/1e6)) G^(kappa + lambda ln G) "
        "+ B (D/1e8)^-beta X^omega mean_i (tau + (1 - tau) w_i/w_uniform)^-beta"
    )
    source = "this project; priors from Besiroglu et al. 2024, Ludziejewski et al. 2025, Tian et al. 2025"
    convention = (
        "N: active parameters without embeddings (n_active where a table has no other); D: tokens; X: expansion; "
        "G: granularity against an FFN of (8/3) d_model; w: mixture weights over the uniform weight"
    )
    parameters = (
        amplitude("E", "irreducible loss", 0.55, spread=0.4, unit="bits/byte"),
        amplitude("A", "loss from finite parameters at N = 1e6", 1.0, "N", spread=1.0, unit="bits/byte"),
        amplitude("B", "loss from finite tokens at D = 1e8", 0.6, "D", spread=1.0, unit="bits/byte"),
        exponent("alpha", "exponent of active parameters", 0.34, "N", spread=0.1),
        exponent("beta", "exponent of tokens", 0.36, "D", spread=0.1),
        coefficient("delta", "effect of ln expansion on the parameter term at N = 1e6", -0.06, "X", spread=0.08),
        coefficient("zeta", "change of delta with ln N", 0.0, "X", "N", spread=0.01),
        coefficient("omega", "effect of ln expansion on the token term", -0.06, "X", spread=0.08),
        coefficient("kappa", "slope in ln granularity", -0.06, "G", spread=0.06),
        coefficient("lambda", "curvature in ln granularity", 0.012, "G", spread=0.015),
        coefficient("tau", "share of a token's use in other domains", 0.5, "w", spread=0.25, lower=0.02, upper=1.0),
    )
    regularised = True

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D, X, G and w (runs, domains); a table without experts is dense, without weights uniform."""
        return {
            "N": positive(frame, "n_active_non_embedding", "n_active", "n_total", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
            "X": optional(frame, "expansion", default=1.0, law=self.name),
            "G": optional(frame, "granularity", default=1.0, law=self.name),
            "w": relative_weights(frame),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the floor, the parameter term and the token term."""
        e, a, b, alpha, beta, delta, zeta, omega, kappa, curvature, tau = theta
        n, d, s, g = np.log(x["N"] / N0), np.log(x["D"] / D0), np.log(x["X"]), np.log(x["G"])
        mixing, by_beta, by_tau = _mixing(x["w"], beta, tau)
        return (
            Term(e, {0: 1.0}),
            Term(
                a - alpha * n + (delta + zeta * n) * s + (kappa + curvature * g) * g,
                {1: 1.0, 3: -n, 5: s, 6: n * s, 8: g, 9: g**2},
            ),
            Term(b - beta * d + omega * s + mixing, {2: 1.0, 4: by_beta - d, 7: s, 10: by_tau}),
        )


def _mixing(weights: Array, beta: Array, tau: Array) -> tuple[Array, Array | float, Array | float]:
    """Return ln M and its derivatives by beta and tau, each (batch, runs), or zeros for uniform mixtures."""
    if np.all(weights == 1):
        return np.zeros((1, 1)), 0.0, 0.0
    use = tau[:, :, None] + (1 - tau[:, :, None]) * weights  # (batch, runs, domains)
    power = use ** -beta[:, :, None]
    total = power.sum(axis=2)
    by_beta = -(power * np.log(use)).sum(axis=2) / total
    by_tau = -beta * (power / use * (1 - weights)).sum(axis=2) / total
    return np.log(total / weights.shape[1]), by_beta, by_tau


LAW = Joint()
