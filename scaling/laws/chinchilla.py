"""Parameters and tokens: the dense law of Hoffmann et al. 2022 (Approach 3), refitted by Besiroglu et al. 2024.

    L(N, D) = E + A / N^alpha + B / D^beta

Hoffmann et al. averaged the Huber loss and stopped early; the published coefficients are not the optimum of their own
objective (Besiroglu et al. 2024, arXiv 2404.10102). Both sets stand in ``published``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, exponent


class Chinchilla(Law):
    """A dense law: of an MoE it sees the active parameters only."""

    name = "chinchilla"
    equation = "L = E + A/N^alpha + B/D^beta"
    source = "Hoffmann et al. 2022, arXiv 2203.15556, equation 10; refit: Besiroglu et al. 2024, arXiv 2404.10102"
    convention = "N: active parameters with embeddings (n_active; n_total where a table has no other); D: tokens"
    parameters = (
        amplitude("E", "irreducible loss", 1.8172, spread=0.5),
        amplitude("A", "loss at N = 1 from finite parameters", 482.01, "N"),
        amplitude("B", "loss at D = 1 from finite tokens", 2085.43, "D"),
        exponent("alpha", "exponent of parameters", 0.3478, "N"),
        exponent("beta", "exponent of tokens", 0.3658, "D"),
    )
    published = MappingProxyType(
        {
            "hoffmann2022": {
                "E": 1.6934,
                "A": np.exp(6.00734),
                "B": np.exp(6.01792),
                "alpha": 0.33917,
                "beta": 0.28491,
            },
            "besiroglu2024": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        }
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N and D."""
        return {
            "N": positive(frame, "n_active", "n_total", "n_active_non_embedding", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E, A/N^alpha and B/D^beta."""
        e, a, b, alpha, beta = theta
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        return (
            Term(e, {0: 1.0}),
            Term(a - alpha * log_n, {1: 1.0, 3: -log_n}),
            Term(b - beta * log_d, {2: 1.0, 4: -log_d}),
        )

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the exponents with which compute is split: N* ~ C^a, D* ~ C^(1-a) under C = 6ND."""
        alpha, beta = natural["alpha"], natural["beta"]
        return {"allocation_exponent": beta / (alpha + beta)}


LAW = Chinchilla()
