"""How much wider than its resamples a fit's predictions have to be, and to which side.

Resamples of a fit know one doubt: which coefficients. Two are missing. *Few runs*: the spread of residuals is itself
estimated, so that the deviations of a draw are scaled by sqrt(freedom / chi²(freedom)), as in Student's t. *The form*:
beyond the runs a law errs in one direction, the same for all runs of a scale, by

    log loss = law + sum over compute, size, tokens of b · reach + noise,   b ~ Normal(m, V)

where the reach grows with the decades beyond the runs (:mod:`~moe_search.scaling.extrapolation`), and m and V are
learnt from how the law extrapolated before (:mod:`~moe_search.scaling.calibration`): a law that fell short above every
cut is expected to fall short again, so that its intervals need not be centred on its predictions. What is known of the
size of such errors is kept as equally probable values, each with its m and V; draws of b use all of them.

b belongs to a draw, not to a row: predictions at equal compute, size and tokens move together, and their differences
stay as sharp as the law makes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
from scipy.special import ndtri
from scipy.stats import chi2

from moe_search.scaling.extrapolation import Edge, reach
from moe_search.scaling.law import Array

FEWEST_FREEDOM = 3.0
"""With less, Student's t has no variance, and an interval would say nothing about anything."""


@dataclass(frozen=True)
class Widening:
    """What predictions are widened by."""

    freedom: float
    """Runs less the parameters that they determine."""
    edges: Mapping[str, Edge]
    """Column (compute, size, tokens) to the end of the runs; those that the table has."""
    tau: tuple[float, ...]
    """Equally probable standard deviations of b before the record: log loss at a reach of 1."""
    expected: tuple[tuple[float, ...], ...]
    """m after the record, one a value of tau, each one a column of ``edges``."""
    root: tuple[tuple[tuple[float, ...], ...], ...]
    """Lower triangles whose products with their transposes are V, one a value of tau."""
    cuts: int
    """Rolling cuts that they were learnt from; 0 for the prior alone."""
    seconds: float
    """Wall time of learning them."""

    def scale(self, draws: int, seed: int) -> Array:
        """Return what deviations and noise of each draw (draws,) are multiplied with."""
        freedom = max(self.freedom, FEWEST_FREEDOM)
        factor: Array = np.sqrt(freedom / chi2.ppf(_spread_evenly(draws, seed, 11), freedom))
        return factor

    def discrepancy(self, frame: pl.DataFrame, draws: int, seed: int) -> Array:
        """Return the error of the form (rows, draws) of runs; zero where nothing is known to be extrapolation."""
        columns = len(self.edges)
        if not columns:
            return np.zeros((frame.height, draws))
        value = (_spread_evenly(draws, seed, 12) * len(self.tau)).astype(int)
        normal = np.stack([ndtri(_spread_evenly(draws, seed, 13 + column)) for column in range(columns)], axis=1)
        b = np.array(self.expected)[value] + np.einsum("dij,dj->di", np.array(self.root)[value], normal)
        error: Array = reach(frame, self.edges).T @ b.T
        return error

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the widening of a fit file; in older ones edges have no span, and b has either sign."""
        tau = tuple(content["tau"])
        edges = {
            name: Edge(**edge) if isinstance(edge, Mapping) else Edge(edge, 0.0)
            for name, edge in content["edges"].items()
        }
        unsigned = cls.unsigned(content["freedom"], edges, tau, content["cuts"], content["seconds"])
        if "root" not in content:
            return unsigned
        root = tuple(tuple(map(tuple, triangle)) for triangle in content["root"])
        return replace(unsigned, expected=tuple(map(tuple, content["expected"])), root=root)

    @classmethod
    def unsigned(
        cls, freedom: float, edges: Mapping[str, Edge], tau: tuple[float, ...], cuts: int, seconds: float
    ) -> Self:
        """Return the widening of a law that is as likely to err to one side as to the other."""
        one = np.eye(len(edges))
        root = tuple(tuple(map(tuple, (value * one).tolist())) for value in tau)
        return cls(freedom, edges, tau, ((0.0,) * len(edges),) * len(tau), root, cuts, seconds)


def _spread_evenly(draws: int, seed: int, stream: int) -> Array:
    """Probabilities (draws,) in random order, one in each part of (0, 1) of equal size: few draws have full tails."""
    middles = (np.arange(draws) + 0.5) / draws
    return np.random.default_rng((seed, stream)).permutation(middles)
