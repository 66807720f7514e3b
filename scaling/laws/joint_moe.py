"""Dense and MoE in one law: Ludziejewski et al. 2025 (arXiv 2502.05172, equation 6).

    L(N, D, E) = a Eh^delta N^(alpha + gamma ln Eh) + b Eh^omega D^(beta + zeta ln Eh) + c

with Eh the saturating transform of the number of experts. The exponents alpha and beta are negative, as printed.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import optional, positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient
from moe_search.scaling.saturation import saturate

DENSE_FLOPS = 6.0
"""F = 6 N_active D."""


class JointMoE(Law):
    """Active parameters, tokens and experts, at granularity 1."""

    name = "joint_moe"
    equation = "L = a Eh^delta N^(alpha + gamma ln Eh) + b Eh^omega D^(beta + zeta ln Eh) + c"
    source = "Ludziejewski et al. 2025, arXiv 2502.05172, equation 6 and table 3"
    convention = (
        "N: active parameters with embedding and output head; D: tokens; E: experts of a top-1 layer, for other layers "
        "the expansion (expert parameters over active ones; 1 is dense)"
    )
    parameters = (
        amplitude("a", "loss at N = 1 from finite parameters", 35.91, "N"),
        coefficient("alpha", "exponent of active parameters", -0.1889, "N", spread=0.2, upper=-1e-3),
        coefficient("delta", "effect of experts on the parameter term", -0.2285, "E", spread=0.3),
        coefficient("gamma", "change of the parameter exponent with experts", 0.0098, "N", "E", spread=0.02),
        amplitude("b", "loss at D = 1 from finite tokens", 35.98, "D"),
        coefficient("beta", "exponent of tokens", -0.1775, "D", spread=0.2, upper=-1e-3),
        coefficient("omega", "effect of experts on the token term", 0.5529, "E", spread=0.5),
        coefficient("zeta", "change of the token exponent with experts", -0.0259, "D", "E", spread=0.03),
        Parameter(
            name="E_start",
            meaning="experts that a dense model amounts to",
            transform="log",
            lower=1.0,
            upper=20.0,
            center=2.0732,
            spread=0.5,
            variables=("E",),
        ),
        Parameter(
            name="E_max",
            meaning="experts beyond which more do not help",
            transform="log",
            lower=25.0,
            upper=1e6,
            center=290.4521,
            spread=1.0,
            variables=("E",),
        ),
        amplitude("c", "irreducible loss", 1.3637, spread=0.5),
    )
    published = MappingProxyType({"ludziejewski2025": {parameter.name: parameter.center for parameter in parameters}})

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and E (1, dense, where the table has no expansion)."""
        return {
            "N": positive(frame, "n_active", "n_active_non_embedding", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
            "E": optional(frame, "expansion", default=1.0, law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the parameter term, the token term and the floor."""
        a, alpha, delta, gamma, b, beta, omega, zeta, start, most, c = theta
        log_n, log_d = np.log(x["N"]), np.log(x["D"])
        log_e, by_start, by_most = saturate(np.maximum(x["E"] - 1, 0), np.exp(start), np.exp(most))
        on_n, on_d = delta + gamma * log_n, omega + zeta * log_d  # derivatives of the terms by ln Eh
        return (
            Term(
                a + alpha * log_n + on_n * log_e,
                {0: 1.0, 1: log_n, 2: log_e, 3: log_n * log_e, 8: on_n * by_start, 9: on_n * by_most},
            ),
            Term(
                b + beta * log_d + on_d * log_e,
                {4: 1.0, 5: log_d, 6: log_e, 7: log_d * log_e, 8: on_d * by_start, 9: on_d * by_most},
            ),
            Term(c, {10: 1.0}),
        )

    def reduced(self, experts: float, coefficients: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return m, mu, n, nu of L = m N^mu + n D^nu + c at a number of experts (the paper's table 4)."""
        k = coefficients or self.published["ludziejewski2025"]
        log_e = float(saturate(np.array(experts - 1.0), np.array(k["E_start"]), np.array(k["E_max"]))[0])
        return {
            "m": k["a"] * float(np.exp(k["delta"] * log_e)),
            "mu": k["alpha"] + k["gamma"] * log_e,
            "n": k["b"] * float(np.exp(k["omega"] * log_e)),
            "nu": k["beta"] + k["zeta"] * log_e,
        }

    def compute_optimal(
        self, train_flops: float, experts: float, coefficients: Mapping[str, float] | None = None
    ) -> tuple[float, float]:
        """Return active parameters and tokens that minimise the loss under 6 N D = ``train_flops`` (table 1).

        The paper prints signed exponents; the stationary point needs their absolute values.
        """
        r = self.reduced(experts, coefficients)
        mu, nu, product = abs(r["mu"]), abs(r["nu"]), train_flops / DENSE_FLOPS
        n = (mu * r["m"] / (nu * r["n"])) ** (1 / (mu + nu)) * product ** (nu / (mu + nu))
        return n, product / n


LAW = JointMoE()
