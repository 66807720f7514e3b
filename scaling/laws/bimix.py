"""One domain's loss from its own weight and the steps: BiMix, Ge et al. 2024 (arXiv 2405.14908).

    L(r, s) = (A/s^a + C) B / r^b

r is the weight of the validation domain in the training mixture, s the number of steps. A, B and C are two numbers,
not three, so that B is taken as 1: A/s^a + C is the loss of a model that trains on the domain alone. The law tends to
zero with neither r nor s, and to infinity at r = 0, where the source does not apply it: other domains do not enter.
Not for more than one validation domain a fit: coefficients are the domain's.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, exponent


class BiMix(Law):
    """Weight and steps of one domain, whatever the rest of the mixture is."""

    name = "bimix"
    equation = "L = (A/s^a + C)/r^b"
    source = "Ge et al. 2024, arXiv 2405.14908 (form; coefficients belong to a domain, none is given)"
    convention = (
        "r: weight of the validation domain (domain_weight), s: optimiser steps (steps, else tokens/batch_tokens); the "
        "loss is that domain's; one model size a fit"
    )
    parameters = (
        amplitude("A", "loss at s = 1 from finite steps, on the domain alone", 20.0, "s"),
        amplitude("C", "loss with infinite steps on the domain alone", 1.7, spread=0.7),
        exponent("a", "exponent of steps", 0.35, "s"),
        exponent("b", "exponent of the domain's weight", 0.05, "r", spread=0.1),
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return r and s."""
        if "steps" in frame.columns:
            steps = positive(frame, "steps", law=self.name)
        else:
            steps = positive(frame, "tokens", law=self.name) / positive(frame, "batch_tokens", law=self.name)
        return {"r": positive(frame, "domain_weight", law=self.name), "s": steps}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return A/(s^a r^b) and C/r^b."""
        amplitude_of_steps, floor, a, b = theta
        log_s, log_r = np.log(x["s"]), np.log(x["r"])
        return (
            Term(amplitude_of_steps - a * log_s - b * log_r, {0: 1.0, 2: -log_s, 3: -log_r}),
            Term(floor - b * log_r, {1: 1.0, 3: -log_r}),
        )


LAW = BiMix()
