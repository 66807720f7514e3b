"""Mixture, parameters and tokens, each on its own: Shukor et al. 2025 (arXiv 2507.09404), additive.

    L(N, D, h) = E + 1/(sum_i C_i h_i^g_i) + A/N^alpha + B/D^beta

h are the mixture weights. The best mixture does not depend on N or D, by form: compare ``shukor_joint``, where it
does. Bound to no domains it is ``chinchilla``.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.domain_weights import weights_for
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, exponent

SOURCE = "Shukor et al. 2025, arXiv 2507.09404 (form; coefficients belong to a corpus, none is given)"
CONVENTION = (
    "N: active parameters with embeddings (n_active, else n_total); D: tokens; h: mixture weights (weight/<domain>); "
    "the loss is that of one validation set"
)


class ShukorAdditive(Law):
    """A floor that the mixture moves, beside a dense law."""

    name = "shukor_additive"
    equation = "L = E + 1/(sum_i C_i h_i^g_i) + A/N^alpha + B/D^beta"
    source = SOURCE
    convention = CONVENTION

    def __init__(self, domains: Sequence[str] = ()) -> None:
        self.domains = tuple(domains)
        self.parameters = (
            amplitude("E", "loss of an infinite model on the best mixture, at most", 1.5, spread=0.7),
            amplitude("A", "loss at N = 1 from finite parameters", 480.0, "N"),
            amplitude("B", "loss at D = 1 from finite tokens", 2000.0, "D"),
            exponent("alpha", "exponent of parameters", 0.34, "N"),
            exponent("beta", "exponent of tokens", 0.36, "D"),
            *mixture_parameters(self.domains),
        )

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with one C and one g a domain."""
        return ShukorAdditive(domains)

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and h (runs, domains)."""
        return size_and_mixture(frame, self.domains, law=self.name)

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E, A/N^alpha, B/D^beta and, where there are domains, 1/(sum_i C_i h_i^g_i)."""
        e, a, b, alpha, beta, *mixture = theta
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        return (
            Term(e, {0: 1.0}),
            Term(a - alpha * log_n, {1: 1.0, 3: -log_n}),
            Term(b - beta * log_d, {2: 1.0, 4: -log_d}),
            *mixture_term(mixture, x["h"], first=5),
        )


def mixture_parameters(domains: Sequence[str]) -> list[Parameter]:
    """Return C_i of all domains, then g_i."""
    gains = [
        amplitude(f"C/{domain}", "inverse of the loss left by training on it alone", 2.0, "h", spread=1.5, unit="")
        for domain in domains
    ]
    powers = [exponent(f"g/{domain}", "exponent of its weight", 0.3, "h", spread=0.3) for domain in domains]
    return [*gains, *powers]


def size_and_mixture(frame: pl.DataFrame, domains: Sequence[str], *, law: str) -> Variables:
    """Return N, D and h (runs, domains)."""
    return {
        "N": positive(frame, "n_active", "n_total", "n_active_non_embedding", law=law),
        "D": positive(frame, "tokens", law=law),
        "h": weights_for(frame, domains, law=law),
    }


def mixture_term(theta: Sequence[Array], weights: Array, first: int) -> list[Term]:
    """Return 1/(sum_i C_i h_i^g_i) of (ln C_i, g_i), the parameters from ``first`` on; nothing without domains.

    A weight of zero adds nothing to the sum, whatever its exponent.
    """
    count = len(theta) // 2
    if not count:
        return []
    absent = weights == 0
    log_h = np.log(np.where(absent, 1.0, weights))
    parts = [np.where(absent[:, i], -np.inf, theta[i] + theta[count + i] * log_h[:, i]) for i in range(count)]
    value = np.logaddexp.reduce(parts)
    shares = [np.exp(part - value) for part in parts]
    slopes = {first + i: -share for i, share in enumerate(shares)}
    slopes |= {first + count + i: -share * log_h[:, i] for i, share in enumerate(shares)}
    return [Term(-value, slopes)]


LAW = ShukorAdditive()
