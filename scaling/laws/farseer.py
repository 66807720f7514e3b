"""Exponents that drift with size: Farseer (Li et al. 2025, arXiv 2506.10972).

    L(N, D) = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-S(N),   S(N) = exp(a1 N^alpha + b1)

Both the floor of a size and what its tokens still buy are free functions of N, each the exponential of a power of N.
In these coefficients no prior can be imagined and hardly any optimiser converges: a3 N^gamma + b3 is a difference of
large numbers. So each exponent is written around N0 = 1e9 as its value there, its slope there, and its curvature,

    a N^p + b = value + slope ((N/N0)^p - 1)/p

which is the same family, has the limit value + slope ln(N/N0) at p = 0, and is what is fitted;
:func:`coefficients_of` turns the source's coefficients into these.

Coefficients that are passed on for the paper, in bits a character and rounded to three digits, put the best D/N at
falling, not rising compute, against the paper's own claim. So none is given as published; priors are wide, around what
they say at 1e9 parameters.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient

N0 = 1e9
"""Parameters at which values and slopes are taken."""
SMALL = 1e-4
"""Below it a power is so close to a logarithm that its series is exact."""


class Farseer(Law):
    """Nine parameters for tables of hundreds of runs; a smaller table leaves the curvatures open."""

    name = "farseer"
    equation = (
        "ln L = ln(E e^u + B e^v D^(-S e^w)), u, v, w = E_slope p(gamma), B_slope p(beta), S_slope p(alpha), "
        "p(k) = ((N/1e9)^k - 1)/k"
    )
    source = "Li et al. 2025, arXiv 2506.10972 (form; its coefficients are not given as published, see the module)"
    convention = "N: active parameters without embeddings (n_active, n_total where a table has no other); D: tokens"
    parameters = (
        amplitude("E", "loss with infinite tokens at N = 1e9", 0.55, "N", spread=0.7, unit="bits/byte"),
        coefficient("E_slope", "slope of ln E in ln N at 1e9", -0.12, "N", spread=0.15, lower=-2, upper=0.5),
        coefficient("gamma", "curvature of ln E: the power of N in it", 0.17, "N", spread=0.2, lower=-1, upper=1),
        amplitude("B", "loss from finite tokens at N = 1e9, D = 1", 120.0, "N", "D", unit="bits/byte"),
        coefficient("B_slope", "slope of ln B in ln N at 1e9", -1.1, "N", "D", spread=0.6),
        coefficient("beta", "curvature of ln B", -0.1, "N", "D", spread=0.2, lower=-1, upper=1),
        Parameter(
            name="S",
            meaning="exponent of tokens at N = 1e9",
            transform="log",
            lower=1e-3,
            upper=2.5,
            center=0.31,
            spread=0.5,
            variables=("D",),
        ),
        coefficient("S_slope", "slope of ln S in ln N at 1e9", -0.2, "N", "D", spread=0.2, lower=-2, upper=2),
        coefficient("alpha", "curvature of ln S", 0.12, "N", "D", spread=0.2, lower=-1, upper=1),
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N and D."""
        return {
            "N": positive(frame, "n_active_non_embedding", "n_active", "n_total", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E e^u and B e^v D^(-S e^w)."""
        e, e_slope, gamma, b, b_slope, beta, s, s_slope, alpha = theta
        log_n, log_d = np.log(x["N"] / N0), np.log(x["D"])
        (u, u_bent), (v, v_bent), (w, w_bent) = (_power(log_n, power) for power in (gamma, beta, alpha))
        falling = -np.exp(s + s_slope * w) * log_d
        return (
            Term(e + e_slope * u, {0: 1.0, 1: u, 2: e_slope * u_bent}),
            Term(
                b + b_slope * v + falling,
                {3: 1.0, 4: v, 5: b_slope * v_bent, 6: falling, 7: falling * w, 8: falling * s_slope * w_bent},
            ),
        )


def _power(log_n: Array, power: Array) -> tuple[Array, Array]:
    """Return (e^(power log_n) - 1)/power and its derivative by ``power``, each (batch, runs)."""
    z = power * log_n
    near = np.abs(z) < SMALL
    safe = np.where(near, 1.0, z)
    value = np.where(near, 1 + z / 2 + z**2 / 6, np.expm1(safe) / safe)
    slope = np.where(near, 0.5 + z / 3 + z**2 / 8, (np.exp(safe) - value) / safe)
    return log_n * value, log_n**2 * slope


def coefficients_of(
    *, a1: float, b1: float, alpha: float, a2: float, b2: float, beta: float, a3: float, b3: float, gamma: float
) -> dict[str, float]:
    """Return this law's coefficients for those of the source, natural logarithms and N in parameters."""
    found = {"gamma": gamma, "beta": beta, "alpha": alpha}
    for name, a, b, power in (("E", a3, b3, gamma), ("B", a2, b2, beta), ("S", a1, b1, alpha)):
        found[name] = float(np.exp(a * N0**power + b))
        found[f"{name}_slope"] = a * power * N0**power
    return found


LAW = Farseer()
