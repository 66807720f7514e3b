"""Efficiency leverage: how much more compute a dense model needs for the loss of an MoE (Tian et al. 2025, 2507.17702).

    EL(A, G, C) = Ah^(a + d log10 C + gamma (log2 G)² + beta log2 G),   Ah = saturate(A; A_start, A_max)

The paper does not state the bases of its logarithms; log2 for G and log10 for C are the only reading that gives its
claims (EL > 7 at A = 3.1 %, G = 12, C = 1e22; best G between 8 and 12; EL = 1 for a dense model). EL is a ratio of
compute, not a loss. As a law of the loss it is a dense compute law at the leveraged compute,

    L(A, G, C) = E + K / (C · EL(A, G, C))^s

which holds for runs near their compute-optimal split of parameters and tokens, because it knows neither.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import polars as pl

from moe_search.scaling.columns import optional, positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient, exponent
from moe_search.scaling.saturation import saturate

A_MAX = np.array(5.28e16)
"""Published; so large that it says that a high activation ratio does not saturate. Not fitted."""
OURS_TO_THEIRS = 2 / (8 / 3)
"""Their G = 2 d_model / d_expert over ours, (8/3) d_model / d_expert, for tables without raw widths."""


class EfficiencyLeverage(Law):
    """Activation ratio, granularity and compute."""

    name = "efficiency_leverage"
    equation = "L = E + K/(C EL)^s, EL = Ah^(a + d log10 C + gamma (log2 G)^2 + beta log2 G)"
    source = "Tian et al. 2025, arXiv 2507.17702, equation 9 (coefficients from two public notes that agree)"
    convention = (
        "C: training FLOPs (the paper leaves out embedding and head, ours include them); A: activation ratio of a "
        "layer's experts, shared ones included; G: 2 d_model / d_expert"
    )
    parameters = (
        amplitude("E", "irreducible loss", 1.6, spread=0.5),
        amplitude("K", "reducible loss at one FLOP, dense", 2000.0, "C", spread=4.0),
        exponent("s", "exponent of compute", 0.16, "C", spread=0.1),
        coefficient("a", "leverage exponent at one FLOP", 1.23, "A", spread=1.0),
        coefficient("d", "change of the leverage exponent with log10 C", -7.61e-2, "A", "C", spread=0.05),
        coefficient("gamma", "curvature in log2 G", 1.67e-2, "A", "G", spread=0.02),
        coefficient("beta", "slope in log2 G", -1.17e-1, "A", "G", spread=0.1),
        Parameter(
            name="A_start",
            meaning="activation ratio below which sparsity does not help",
            transform="log",
            lower=1e-5,
            upper=0.5,
            center=1.63e-2,
            spread=1.0,
            variables=("A",),
        ),
    )
    published = MappingProxyType(
        {"tian2025": {"a": 1.23, "d": -7.61e-2, "gamma": 1.67e-2, "beta": -1.17e-1, "A_start": 1.63e-2}}
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return C, A (1, dense, where the table has none) and G."""
        if {"d_model", "d_expert"} <= set(frame.columns):
            granularity = 2 * positive(frame, "d_model", law=self.name) / positive(frame, "d_expert", law=self.name)
        else:
            granularity = OURS_TO_THEIRS * optional(frame, "granularity", default=1 / OURS_TO_THEIRS, law=self.name)
        return {
            "C": positive(frame, "train_flops", law=self.name),
            "A": optional(frame, "activation_ratio", default=1.0, law=self.name),
            "G": granularity,
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E and K/(C EL)^s."""
        e, k, s, a, d, gamma, beta, start = theta
        log_c, log10_c, log2_g = np.log(x["C"]), np.log10(x["C"]), np.log2(x["G"])
        log_a, by_start, _ = saturate(x["A"], np.exp(start), A_MAX)
        power = a + d * log10_c + gamma * log2_g**2 + beta * log2_g
        return (
            Term(e, {0: 1.0}),
            Term(
                k - s * (log_c + power * log_a),
                {
                    1: 1.0,
                    2: -(log_c + power * log_a),
                    3: -s * log_a,
                    4: -s * log_a * log10_c,
                    5: -s * log_a * log2_g**2,
                    6: -s * log_a * log2_g,
                    7: -s * power * by_start,
                },
            ),
        )

    def leverage(
        self,
        activation_ratio: npt.ArrayLike,
        granularity: npt.ArrayLike,
        train_flops: npt.ArrayLike,
        coefficients: Mapping[str, float] | None = None,
    ) -> Array:
        """Return EL: dense compute over MoE compute at equal loss; the arguments broadcast."""
        k = coefficients or self.published["tian2025"]
        log2_g, log10_c = np.log2(np.asarray(granularity)), np.log10(np.asarray(train_flops))
        log_a = saturate(np.asarray(activation_ratio, dtype=float), np.array(k["A_start"]), A_MAX)[0]
        power = k["a"] + k["d"] * log10_c + k["gamma"] * log2_g**2 + k["beta"] * log2_g
        leverage: Array = np.exp(power * log_a)
        return leverage

    def best_granularity(self, coefficients: Mapping[str, float] | None = None) -> float:
        """Return the G at which EL is largest, whatever A and C: the vertex of the parabola in log2 G."""
        k = coefficients or self.published["tian2025"]
        return float(2 ** (-k["beta"] / (2 * k["gamma"])))

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the best granularity, in units of 2 d_model / d_expert."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            vertex = 2.0 ** (-natural["beta"] / (2 * natural["gamma"]))
        return {"best_granularity": np.where(natural["gamma"] > 0, vertex, np.nan)}


LAW = EfficiencyLeverage()
