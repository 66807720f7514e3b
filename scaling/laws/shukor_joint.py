"""Mixture, parameters and tokens, intertwined: Shukor et al. 2025 (arXiv 2507.09404), joint.

    L(N, D, h) = E + 1/(sum_i C_i h_i^g_i) + A(h)/N^alpha + B(h)/D^beta
    A(h) = (sum_i a_i h_i)^u,     B(h) = (sum_i b_i h_i)^v

The best mixture depends on N and D. a_i and u nearly trade off, so that they are written by what a domain has alone:
A_i = a_i^u, the amplitude of training on domain i only, and A(h) is the power mean of the A_i of order p_A = 1/u,

    A(h) = (sum_i h_i A_i^p_A)^(1/p_A)

the geometric mean at p_A = 0; B likewise. It is the same family. Bound to no domains it is ``chinchilla``, and where
all A_i are one and all B_i are one it is ``shukor_additive``. With k domains it has 5 + 4 k parameters: for tables of
hundreds of runs.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient, exponent
from moe_search.scaling.laws.shukor_additive import (
    CONVENTION,
    SOURCE,
    mixture_parameters,
    mixture_term,
    size_and_mixture,
)

SMALL = 1e-4
"""Order below which a power mean is so close to the geometric mean that its series is exact."""


class ShukorJoint(Law):
    """The dense law's amplitudes and its floor depend on the mixture."""

    name = "shukor_joint"
    equation = (
        "L = E + 1/(sum_i C_i h_i^g_i) + A/N^alpha + B/D^beta, "
        "A = (sum_i h_i A_i^p_A)^(1/p_A), B = (sum_i h_i B_i^p_B)^(1/p_B)"
    )
    source = SOURCE
    convention = CONVENTION

    def __init__(self, domains: Sequence[str] = ()) -> None:
        self.domains = tuple(domains)
        self.parameters = (
            amplitude("E", "loss of an infinite model on the best mixture, at most", 1.5, spread=0.7),
            exponent("alpha", "exponent of parameters", 0.34, "N"),
            exponent("beta", "exponent of tokens", 0.36, "D"),
            *mixture_parameters(self.domains),
            *_powers("A", "N", "parameters", 480.0, self.domains),
            *_powers("B", "D", "tokens", 2000.0, self.domains),
        )

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with C, g, A and B of every domain."""
        return ShukorJoint(domains)

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and h (runs, domains)."""
        return size_and_mixture(frame, self.domains, law=self.name)

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E, A(h)/N^alpha, B(h)/D^beta and, where there are domains, 1/(sum_i C_i h_i^g_i)."""
        e, alpha, beta, *rest = theta
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        count = len(self.domains)
        width = count + 1 if count else 1
        first_a = 3 + 2 * count
        first_b = first_a + width
        a, by_a = _power_mean(rest[2 * count : 2 * count + width], x["h"], first_a)
        b, by_b = _power_mean(rest[2 * count + width :], x["h"], first_b)
        return (
            Term(e, {0: 1.0}),
            Term(a - alpha * log_n, {1: -log_n, **by_a}),
            Term(b - beta * log_d, {2: -log_d, **by_b}),
            *mixture_term(rest[: 2 * count], x["h"], first=3),
        )


def _powers(letter: str, variable: str, what: str, center: float, domains: Sequence[str]) -> list[Parameter]:
    """Return the amplitudes of a term and, where there are domains, the order of their mean."""
    meaning = f"loss at {variable} = 1 from finite {what}"
    if not domains:
        return [amplitude(letter, meaning, center, variable)]
    alone = [
        amplitude(f"{letter}/{domain}", f"{meaning}, of training on it alone", center, variable, "h")
        for domain in domains
    ]
    return [*alone, coefficient(f"p_{letter}", "order of the mean over domains", 1.0, "h", variable, spread=1.0)]


def _power_mean(theta: Sequence[Array], weights: Array, first: int) -> tuple[Array, dict[int, Array | float]]:
    """Return ln of the power mean of amplitudes (batch, runs) and its derivatives, by parameters from ``first`` on.

    Args:
        theta: the logarithms of the amplitudes, then the order; or one amplitude alone.
        weights: (runs, domains).
        first: place of the first parameter.
    """
    if len(theta) == 1:
        return theta[0], {first: 1.0}
    logs, order = np.concatenate(theta[:-1], axis=1), theta[-1]
    mean = logs @ weights.T
    apart = logs[:, None, :] - mean[:, :, None]  # (batch, runs, domains), zero on average over the mixture
    near = np.abs(order) < SMALL
    safe = np.where(near, 1.0, order)
    grown = np.where(weights == 0, -np.inf, safe[:, :, None] * apart) + np.log(np.where(weights == 0, 1.0, weights))
    largest = grown.max(axis=2, keepdims=True)
    total = np.exp(grown - largest).sum(axis=2)
    log_total = largest[:, :, 0] + np.log(total)
    shares = np.exp(grown - largest) / total[:, :, None]
    second, third = ((weights * apart**power).sum(axis=2) for power in (2, 3))
    value = mean + np.where(near, order * second / 2 + order**2 * third / 6, log_total / safe)
    flat = weights * (1 + order[:, :, None] * apart)
    shares = np.where(near[:, :, None], flat, shares)
    tilt = (shares * apart).sum(axis=2)
    by_order = np.where(near, second / 2 + order * third / 3, (tilt - log_total / safe) / safe)
    slopes: dict[int, Array | float] = {first + i: shares[:, :, i] for i in range(weights.shape[1])}
    return value, {**slopes, first + weights.shape[1]: by_order}


LAW = ShukorJoint()
