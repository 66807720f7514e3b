"""Log loss linear in the mixture weights: the linear regression of RegMix (Liu et al. 2024, arXiv 2407.01492).

    ln L(h) = sum_i h_i ln K_i,    L(h) = product_i K_i^h_i

K_i is the loss of a model that sees domain i alone. The source regresses the loss itself; its logarithm is as good (a
Spearman of 0.906 instead of 0.902 on its own test mixtures) and is what all laws here fit. It knows no diminishing
returns and no floor (``mixture``, ``data_mixing``), and neither size nor tokens: it does not extrapolate in scale. As
the plainest thing to compare with, a law of mixtures has to beat it.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.domain_weights import weights_for
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude

ALONE = "K/"


class LogLinear(Law):
    """One loss a training domain, whose geometric mean a mixture has; bound to no domains all tokens are of one."""

    name = "log_linear"
    equation = "L = exp(sum_i h_i ln K_i)"
    source = "RegMix, Liu et al. 2024, arXiv 2407.01492 (linear regression; of the loss there, of its logarithm here)"
    convention = (
        "h: mixture weights (weight/<domain>); the loss is that of one validation set; one model size and one number "
        "of tokens a fit, and no word on others"
    )

    def __init__(self, domains: Sequence[str] = ()) -> None:
        self.domains = tuple(domains)
        alone = [ALONE + domain for domain in self.domains] or [ALONE.rstrip("/")]
        self.parameters = tuple(amplitude(name, "loss of training on it alone", 4.0, "h", spread=1.0) for name in alone)

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with one K a domain."""
        return LogLinear(domains)

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return h (runs, domains)."""
        return {"h": weights_for(frame, self.domains, law=self.name)}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the geometric mean of the domains' losses."""
        weights = x["h"]
        mean = np.concatenate(theta, axis=1) @ weights.T
        return (Term(mean, {j: weights[:, j] for j in range(len(theta))}),)


LAW = LogLinear()
