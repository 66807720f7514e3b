"""Upcycling: an MoE that starts from a trained dense model (Liew et al. 2025, arXiv 2502.03009).

    L(D1, D2) = A D1^-a1 D2^(-a2 + a3 ln D1) + E

D1 tokens trained the dense model, D2 the MoE made of it. The interaction a3 > 0 says that the longer the dense model
was trained, the less each further token buys; at D1 = exp(a2/a3) nothing is left to gain. The law is for one
architecture: sizes do not enter.

ln D1 ln D2 nearly moves with ln D1 and ln D2, so that exponents are taken at D0 = 1e9 tokens of the other stage, where
they can be imagined: with d = ln(D/1e9), the reducible loss is A exp(-a1 d1 - a2 d2 + a3 d1 d2). The source's
exponents at one token are derived. Its coefficients were found in no source, so that there are priors only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, coefficient, exponent

D0 = 1e9
"""Reference tokens of both stages."""


class Upcycling(Law):
    """Tokens of the dense stage and of the upcycled one, at one architecture."""

    name = "upcycling"
    equation = "L = E + A exp(-a1 d1 - a2 d2 + a3 d1 d2), d = ln(D/1e9)"
    source = "Liew et al. 2025, arXiv 2502.03009 (form; no coefficients found)"
    convention = (
        "D1: tokens of the dense model (dense_tokens); D2: tokens trained after upcycling (upcycled_tokens, else "
        "tokens); one architecture a fit"
    )
    parameters = (
        amplitude("E", "irreducible loss of the architecture", 1.9, spread=0.5),
        amplitude("A", "reducible loss at D1 = D2 = 1e9", 1.0, "D1", "D2", spread=1.0),
        exponent("a1", "exponent of dense tokens at D2 = 1e9", 0.15, "D1", spread=0.15),
        exponent("a2", "exponent of upcycled tokens at D1 = 1e9", 0.15, "D2", spread=0.15),
        coefficient("a3", "interaction", 0.01, "D1", "D2", spread=0.03, lower=-0.5, upper=0.5),
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return D1 and D2."""
        return {
            "D1": positive(frame, "dense_tokens", law=self.name),
            "D2": positive(frame, "upcycled_tokens", "tokens", law=self.name),
        }

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E and the reducible loss."""
        e, a, a1, a2, a3 = theta
        d1, d2 = np.log(x["D1"] / D0), np.log(x["D2"] / D0)
        return (
            Term(e, {0: 1.0}),
            Term(a - a1 * d1 - a2 * d2 + a3 * d1 * d2, {1: 1.0, 2: -d1, 3: -d2, 4: d1 * d2}),
        )

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the source's exponents, at one token of the other stage, and the D1 beyond which D2 buys nothing."""
        shift = natural["a3"] * np.log(D0)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            limit = D0 * np.exp(natural["a2"] / natural["a3"])
        return {
            "a1_at_one_token": natural["a1"] + shift,
            "a2_at_one_token": natural["a2"] + shift,
            "dense_tokens_without_gain": np.where(natural["a3"] > 0, limit, np.nan),
        }


LAW = Upcycling()
