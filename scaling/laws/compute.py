"""Compute alone: a power law above an asymptote, along the compute-optimal line of Hoffmann et al. 2022.

    L(C) = E + K / C^s

Put the best split of compute, N* ~ C^a and D* ~ C^(1-a), into L = E + A/N^alpha + B/D^beta: both terms fall as
C^(-alpha beta / (alpha + beta)), so that s is that number. The law holds for runs near the best split, because it
knows neither parameters nor tokens; runs off that line need ``gadre`` or ``chinchilla``.

Hardly any table determines E: it lies where no run has been. It is free here; ``compute:E=1.69`` pins it
(:mod:`moe_search.scaling.pinned`), and then the fit's name says so.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Term, Variables, amplitude, exponent


class Compute(Law):
    """Training FLOPs, and nothing else."""

    name = "compute"
    equation = "L = E + K/C^s"
    source = "Hoffmann et al. 2022, arXiv 2203.15556, equations 4 and 10 (the best split put into the loss)"
    convention = "C: forward and backward FLOPs of the run, embedding and head included (train_flops)"
    parameters = (
        amplitude("E", "irreducible loss", 1.7, spread=0.5),
        amplitude("K", "reducible loss at one FLOP", 1100.0, "C", spread=4.0),
        exponent("s", "exponent of compute", 0.16, "C", spread=0.1),
    )

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return C."""
        return {"C": positive(frame, "train_flops", law=self.name)}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return E and K/C^s."""
        e, k, s = theta
        log_c = np.log(x["C"])
        return (
            Term(e, {0: 1.0}),
            Term(k - s * log_c, {1: 1.0, 2: -log_c}),
        )


LAW = Compute()
