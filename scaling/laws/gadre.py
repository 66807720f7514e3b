"""Over-training: compute, and tokens a parameter (Gadre et al. 2024, arXiv 2403.08540, equation 4).

    L(C, M) = E + (a M^h + b M^-h) C^-h,   C = 6 N D,   M = D/N

It is L = E + A/N^alpha + B/D^beta with alpha = beta = 2h, written in what a team decides: how much compute, and how far
past the best split, so that the model is cheap to serve. Loss falls as the same power of compute at every M. Not for
tables in which M never varies: a and b are then one number, which the fit says.

The published coefficients are those of the paper's five runs a data set (table 2: four sizes at M = 20 and the smallest
at M = 320); fitting the released losses again gives them to every printed digit.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, exponent

DENSE_FLOPS = 6.0
"""C = 6 N D, by definition of the law; a table's own FLOPs are not read."""


class Gadre(Law):
    """A dense law with one exponent; of an MoE it sees the active parameters only."""

    name = "gadre"
    equation = "L = E + (a M^h + b M^-h) C^-h"
    source = "Gadre et al. 2024, arXiv 2403.08540, equation 4"
    convention = "C = 6 N D and M = D/N of N: active parameters with embeddings (n_active, else n_total); D: tokens"
    parameters = (
        amplitude("E", "irreducible loss", 1.69, spread=0.5),
        amplitude("a", "loss at C = M = 1 from finite parameters", 170.0, "C", "M"),
        amplitude("b", "loss at C = M = 1 from finite tokens", 270.0, "C", "M"),
        exponent("h", "exponent of compute, half of that of parameters", 0.128, "C", spread=0.1),
    )
    published = MappingProxyType(
        {
            "gadre2024_c4": {"E": 1.51, "a": 141.0, "b": 190.0, "h": 0.121},
            "gadre2024_redpajama": {"E": 1.84, "a": 212.0, "b": 367.0, "h": 0.136},
            "gadre2024_refinedweb": {"E": 1.73, "a": 157.0, "b": 246.0, "h": 0.127},
        }
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return C and M."""
        n = positive(frame, "n_active", "n_total", "n_active_non_embedding", law=self.name)
        d = positive(frame, "tokens", law=self.name)
        return {"C": DENSE_FLOPS * n * d, "M": d / n}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E, a (M/C)^h and b/(M C)^h."""
        e, a, b, h = theta
        log_c, log_m = np.log(x["C"]), np.log(x["M"])
        return (
            Term(e, {0: 1.0}),
            Term(a + h * (log_m - log_c), {1: 1.0, 3: log_m - log_c}),
            Term(b - h * (log_m + log_c), {2: 1.0, 3: -log_m - log_c}),
        )

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the M at which the loss of a compute is lowest, whatever the compute: (b/a)^(1/2h)."""
        with np.errstate(over="ignore"):
            best = (natural["b"] / natural["a"]) ** (1 / (2 * natural["h"]))
        return {"best_tokens_per_parameter": best}


LAW = Gadre()
