"""Routed language models at one number of tokens: Clark et al. 2022 (arXiv 2202.01169, equations 7 and 8).

    log10 L = a log10 N + b log10 Eh + c log10 N log10 Eh + d

with Eh the saturating transform of the number of experts (:mod:`moe_search.scaling.saturation`). The published
coefficients need base-10 logarithms: only the interaction c depends on the base, and with natural logarithms it is
wrong by a factor of 2.3.

The law has no irreducible loss. Fitted to the published runs up to 370M parameters it is 2.0 % too low at 1.3B for
each of the three routers; the law ``joint`` has one.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import optional, positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, coefficient
from moe_search.scaling.saturation import saturate

LN10 = float(np.log(10))


class Clark(Law):
    """Active parameters and experts, all runs trained on equally many tokens."""

    name = "clark"
    equation = "log10 L = a log10 N + b log10 Eh + c log10 N log10 Eh + d"
    source = "Clark et al. 2022, arXiv 2202.01169, equations 7 and 8; coefficients of table 3"
    convention = (
        "N: active parameters with embeddings (n_active); E: experts of a top-1 layer, for other layers the expansion "
        "(expert parameters over active ones; 1 is dense); all runs on one number of tokens; logarithms to base 10"
    )
    parameters = (
        coefficient("a", "exponent of active parameters without experts", -0.083, "N", spread=0.1),
        coefficient("b", "exponent of experts at N = 1", -0.12, "E", spread=0.2),
        coefficient("c", "change of that exponent with log10 N", 0.011, "N", "E", spread=0.02),
        coefficient("d", "log10 of the loss at N = Eh = 1", 1.12, spread=1.0),
        Parameter(
            name="E_start",
            meaning="experts that a dense model amounts to",
            transform="log",
            lower=0.5,
            upper=20.0,
            center=2.0,
            spread=1.0,
            variables=("E",),
        ),
        Parameter(
            name="E_max",
            meaning="experts beyond which more do not help",
            transform="log",
            lower=25.0,
            upper=1e6,
            center=400.0,
            spread=2.0,
            variables=("E",),
        ),
    )
    published = MappingProxyType(
        {
            "clark2022_s_base": {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "E_start": 1.847, "E_max": 314.478},
            "clark2022_rl_r": {"a": -0.083, "b": -0.126, "c": 0.012, "d": 1.111, "E_start": 1.880, "E_max": 469.982},
            "clark2022_hash": {"a": -0.087, "b": -0.136, "c": 0.012, "d": 1.157, "E_start": 4.175, "E_max": 477.741},
        }
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N and E (1, dense, where the table has no expansion)."""
        return {
            "N": positive(frame, "n_active", "n_active_non_embedding", law=self.name),
            "E": optional(frame, "expansion", default=1.0, law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the one term, which is the loss."""
        a, b, c, d, start, most = theta
        log_n = np.log(x["N"])
        log_e, by_start, by_most = saturate(np.maximum(x["E"] - 1, 0), np.exp(start), np.exp(most))
        on_e = b + c * log_n / LN10
        return (
            Term(
                a * log_n + on_e * log_e + d * LN10,
                {0: log_n, 1: log_e, 2: log_n * log_e / LN10, 3: LN10, 4: on_e * by_start, 5: on_e * by_most},
            ),
        )

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the active parameters beyond which experts no longer help, 10^(-b/c)."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            cutoff = 10 ** (-natural["b"] / natural["c"])
        return {"routing_helps_below": np.where(natural["c"] > 0, cutoff, np.nan)}


LAW = Clark()
