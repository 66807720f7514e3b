"""Sparsity at a total size: Abnar et al. 2025 (arXiv 2501.12370).

    L(N, D, S) = a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma) + e

N is the *total* number of parameters and S the share of experts that a token leaves out, so that 1 - S is the
activation ratio A. At a fixed total size sparsity costs quality (the last term but one); at a fixed compute it pays,
because sparse tokens are cheaper: the best S rises to one as N grows.

Ten parameters: the paper's fit has R² 0.99 inside and 0.68 on the held-out S = 0.98. Do not trust it beyond its runs.
"""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import optional, positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, coefficient, exponent


class Sparsity(Law):
    """Total parameters, tokens and activation ratio."""

    name = "sparsity"
    equation = "L = a/N^alpha + b/D^beta + c/A^lambda + d/(A^delta N^gamma) + e, A = 1 - S"
    source = "Abnar et al. 2025, arXiv 2501.12370 (coefficients from a secondary source)"
    convention = "N: total parameters with embeddings (n_total); D: tokens; A: activation ratio of a layer's experts"
    parameters = (
        amplitude("a", "loss at N = 1 from finite parameters, whatever the sparsity", 16612.5, "N"),
        exponent("alpha", "exponent of total parameters", 0.5962, "N"),
        amplitude("b", "loss at D = 1 from finite tokens", 5455.67, "D"),
        exponent("beta", "exponent of tokens", 0.3954, "D"),
        amplitude("c", "loss of a dense model that sparsity takes away", 0.4598, "A", spread=1.5),
        coefficient("lambda", "exponent of the activation ratio, negative if sparsity helps", -0.1666, "A", spread=0.2),
        amplitude("d", "loss at N = 1 that sparsity adds to", 17.26, "N", "A"),
        coefficient("delta", "exponent of the activation ratio where it hurts", 0.1603, "A", spread=0.2),
        exponent("gamma", "exponent of parameters in that term", 0.1595, "N", "A"),
        amplitude("e", "irreducible loss", 0.94, spread=0.7),
    )
    published = MappingProxyType({"abnar2025": {parameter.name: parameter.center for parameter in parameters}})

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and A (1, dense, where the table has none)."""
        return {
            "N": positive(frame, "n_total", "n_total_non_embedding", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
            "A": optional(frame, "activation_ratio", default=1.0, law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the terms in the order of the equation."""
        a, alpha, b, beta, c, lam, d, delta, gamma, e = theta
        log_n, log_d, log_a = np.log(x["N"]), np.log(x["D"]), np.log(x["A"])
        return (
            Term(a - alpha * log_n, {0: 1.0, 1: -log_n}),
            Term(b - beta * log_d, {2: 1.0, 3: -log_d}),
            Term(c - lam * log_a, {4: 1.0, 5: -log_a}),
            Term(d - delta * log_a - gamma * log_n, {6: 1.0, 7: -log_a, 8: -log_n}),
            Term(e, {9: 1.0}),
        )


LAW = Sparsity()
