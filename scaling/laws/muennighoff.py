"""Repeated data: Muennighoff et al. 2023 (arXiv 2305.16264, equations 5 and 6 and appendix A).

    L = E + A/N'^alpha + B/D'^beta
    D' = U + U R_D (1 - exp(-r_D/R_D)),       r_D = D/U - 1            repetitions of the unique tokens U
    N' = V + V R_N (1 - exp(-r_N/R_N)),       r_N = max(N/V - 1, 0)    parameters beyond V = min(N, 0.051 U)

A repeated token is worth less, the more often it has been repeated, and so is a parameter beyond those that the unique
tokens call for. After R_D repetitions (15.4) a repetition is worth 1/e of fresh data; four epochs cost almost nothing,
and no number of epochs is worth more than 1 + R_D. Without repetition and excess parameters it is ``chinchilla``.

0.051 is the ratio N*/D* of the paper's own base law and, as in the paper, a constant.
"""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, exponent
from moe_search.scaling.repetition import unique_tokens, worth

PARAMETERS_PER_UNIQUE_TOKEN = 0.051


def _lasting(name: str, meaning: str, center: float, *variables: str) -> Parameter:
    return Parameter(
        name=name,
        meaning=meaning,
        transform="log",
        lower=0.05,
        upper=1e4,
        center=center,
        spread=1.0,
        variables=variables,
    )


class Muennighoff(Law):
    """A dense law whose tokens may repeat."""

    name = "muennighoff"
    equation = (
        "L = E + A/N'^alpha + B/D'^beta, D' = U (1 + R_D (1 - exp((1 - D/U)/R_D))), "
        "N' = V (1 + R_N (1 - exp((1 - N/V)/R_N))), V = min(N, 0.051 U)"
    )
    source = "Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6, appendix A"
    convention = (
        "N: active parameters with embeddings (n_active, else n_total); D: tokens; U: unique_tokens, else from epochs "
        "or from epochs/<domain> and weight/<domain>, else D"
    )
    parameters = (
        amplitude("E", "irreducible loss", 1.87, spread=0.5),
        amplitude("A", "loss at N' = 1 from finite parameters", 521.0, "N"),
        amplitude("B", "loss at D' = 1 from finite tokens", 1488.0, "D"),
        exponent("alpha", "exponent of parameters", 0.353, "N"),
        exponent("beta", "exponent of tokens", 0.353, "D"),
        _lasting("R_N", "how many times V in further parameters are worth having", 5.31, "N", "U"),
        _lasting("R_D", "how many repetitions of a token are worth having", 15.39, "D", "U"),
    )
    published = MappingProxyType({"muennighoff2023": {parameter.name: parameter.center for parameter in parameters}})

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D and U."""
        return {
            "N": positive(frame, "n_active", "n_total", "n_active_non_embedding", law=self.name),
            "D": positive(frame, "tokens", law=self.name),
            "U": unique_tokens(frame, law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E, A/N'^alpha and B/D'^beta."""
        e, a, b, alpha, beta, r_n, r_d = theta
        size, by_r_n = worth(x["N"], PARAMETERS_PER_UNIQUE_TOKEN * x["U"], np.exp(r_n))
        data, by_r_d = worth(x["D"], x["U"], np.exp(r_d))
        return (
            Term(e, {0: 1.0}),
            Term(a - alpha * size, {1: 1.0, 3: -size, 5: -alpha * by_r_n}),
            Term(b - beta * data, {2: 1.0, 4: -data, 6: -beta * by_r_d}),
        )


LAW = Muennighoff()
