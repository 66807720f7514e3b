"""Parameters and tokens without an asymptote: Kaplan et al. 2020 (arXiv 2001.08361, equation 1.5).

    L(N, D) = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D

No sum of positive terms, but a norm of two power laws, A/N^alpha_N (what remains with infinite data) and B/D^alpha_D
(with infinite parameters). A = Nc^alpha_N and B = Dc^alpha_D are losses, so that they are what is fitted: their priors
can be imagined and follow the unit of the loss. Nc and Dc are derived.

Under C = 6 N D this equation splits compute as N* ~ C^(alpha_D / (alpha_N + alpha_D)), which is C^0.575 with the
published coefficients. The paper's well-known N* ~ C^0.73 is another law of it, over steps below the critical batch; it
came from runs whose warm-up, decay and FLOPs of the head were not right for small models (Porian et al. 2024,
arXiv 2406.19146) and does not follow from this equation.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Variables, amplitude, exponent


class Kaplan(Law):
    """A dense law that says that enough of everything brings the loss to zero."""

    name = "kaplan"
    equation = "L = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D, A = Nc^alpha_N, B = Dc^alpha_D"
    source = "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5 and table 2"
    convention = "N: active parameters without embeddings (n_active, n_total where a table has no other); D: tokens"
    parameters = (
        amplitude("A", "loss at N = 1 with infinite tokens", 11.2, "N", spread=1.5),
        amplitude("B", "loss at D = 1 with infinite parameters", 23.2, "D", spread=1.5),
        exponent("alpha_N", "exponent of parameters", 0.076, "N", spread=0.1),
        exponent("alpha_D", "exponent of tokens", 0.103, "D", spread=0.1),
    )
    published = MappingProxyType(
        {"kaplan2020": {"A": 6.4e13**0.076, "B": 1.8e13**0.103, "alpha_N": 0.076, "alpha_D": 0.103}}
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N and D."""
        return {
            "N": positive(frame, "n_active_non_embedding", "n_active", "n_total", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
        }

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return alpha_D times the logsumexp of both power laws to the power 1/alpha_D, and its derivatives."""
        a, b, alpha, beta = (theta[:, j : j + 1] for j in range(4))
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        by_size, by_data = (a - alpha * log_n) / beta, b / beta - log_d
        total = np.logaddexp(by_size, by_data)
        size, data = np.exp(by_size - total), np.exp(by_data - total)  # shares, sum 1
        jacobian = np.stack([size, data, -size * log_n, total - size * by_size - data * b / beta], axis=1)
        return beta * total, jacobian

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return Nc, Dc and the exponent of N* ~ C^a under C = 6ND."""
        alpha, beta = natural["alpha_N"], natural["alpha_D"]
        with np.errstate(over="ignore"):
            scales = {"Nc": natural["A"] ** (1 / alpha), "Dc": natural["B"] ** (1 / beta)}
        return {**scales, "allocation_exponent": beta / (alpha + beta)}


LAW = Kaplan()
