"""Mixtures at one model size and one number of tokens: Ye et al. 2024 (arXiv 2403.16952, equation 6).

    L(h) = c + k exp(sum_j t_j h_j)

The weights h (the source's r) sum to one, so that k and a constant added to all t_j are the same thing and no
optimiser can tell them apart. What is fitted has one parameter fewer and is the same family:

    L(h) = c + exp(sum_j h_j ln K_j) = c + product_j K_j^h_j

K_j is the reducible loss of a model that sees domain j alone, and a mixture's is their geometric mean. The source's
coefficients are derived: k is the reducible loss of the uniform mixture, t_j = ln K_j - ln k, small where a domain
helps. They are those of one validation set, so that none is given as published: fit ``--objective loss/<domain>``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from moe_search.scaling.domain_weights import weights_for
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude

ALONE = "K/"


class DataMixing(Law):
    """One floor, and one reducible loss a training domain; bound to no domains all tokens are of one."""

    name = "data_mixing"
    equation = "L = c + k exp(sum_j t_j h_j) = c + exp(sum_j h_j ln K_j)"
    source = "Ye et al. 2024, arXiv 2403.16952, equation 6"
    convention = (
        "h: mixture weights (weight/<domain>); the loss is that of one validation set; one model size and one number "
        "of tokens a fit"
    )

    def __init__(self, domains: Sequence[str] = ()) -> None:
        self.domains = tuple(domains)
        alone = [ALONE + domain for domain in self.domains] or [ALONE.rstrip("/")]
        self.parameters = (
            amplitude("c", "irreducible loss, whatever the mixture", 1.5, spread=1.0),
            *(amplitude(name, "reducible loss of training on it alone", 2.0, "h", spread=1.0) for name in alone),
        )

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with one K a domain."""
        return DataMixing(domains)

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return h (runs, domains)."""
        return {"h": weights_for(frame, self.domains, law=self.name)}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the floor and the geometric mean of the domains' reducible losses."""
        c, *alone = theta
        weights = x["h"]
        mean = np.concatenate(alone, axis=1) @ weights.T
        return (Term(c, {0: 1.0}), Term(mean, {1 + j: weights[:, j] for j in range(len(alone))}))

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return the source's k and t_j, those of a uniform mixture at k."""
        logs = {domain: np.log(natural[ALONE + domain]) for domain in self.domains}
        if not logs:
            return {}
        mean = np.mean(list(logs.values()), axis=0)
        return {"k": np.exp(mean), **{f"t/{domain}": value - mean for domain, value in logs.items()}}


LAW = DataMixing()
