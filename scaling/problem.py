"""One law on one training table, as the numerical problem that all solves share: coordinates, box, prior and starts."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtri

from moe_search.scaling.law import BITS_PER_BYTE_OF_A_NAT_PER_TOKEN, Array, Law, Variables
from moe_search.scaling.projection import Amplitudes, amplitudes_of, solved
from moe_search.scaling.solver import Solution, minimise

SMALLEST_SHARE = 0.02
"""Of the median loss: what a term starts at, at least."""
JACOBIAN_NUMBERS = 100_000
"""Entries of the Jacobians of one piece of a batch: 0.8 MB."""


@dataclass(frozen=True)
class Problem:
    """Residuals of a law, with the box and the weak prior of its parameters in internal units."""

    law: Law
    x: Variables
    log_y: Array
    """(runs,): logarithm of the observed loss."""
    delta: float
    center: Array
    """(parameters,): the prior's centre, in the unit of the observed loss."""
    spread: Array
    """(parameters,): the prior's standard deviation."""
    lower: Array
    upper: Array
    basis: Array
    """(parameters, parameters): coordinates in which an amplitude is the size of its term at the mean run."""
    bound: Array
    """(runs,): 0 where the loss was observed, 1 where it bounds the law's loss from above, -1 from below."""
    amplitudes: Amplitudes | None
    """Parameters that starts are solved for; None where the law has none."""

    @property
    def runs(self) -> int:
        """Number of runs, bounds included."""
        return len(self.log_y)

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """Which runs (runs,) are observations, not bounds."""
        observed: npt.NDArray[np.bool_] = self.bound == 0
        return observed

    def residuals(self, theta: Array, log_y: Array | None = None) -> tuple[Array, Array]:
        """Return log predicted minus log observed (batch, runs) and its Jacobian (batch, parameters, runs).

        Both are zero for a bound that the law keeps.

        Args:
            theta: (batch, parameters).
            log_y: (batch, runs), other observations; None: those of the table.
        """
        with np.errstate(all="ignore"):  # far starts overflow; the solver refuses such steps
            value, jacobian = self.law.log_loss_and_jacobian(theta, self.x)
            residual: Array = value - (self.log_y if log_y is None else log_y)
            if self.bound.any():
                kept = (self.bound != 0) & ~(residual * self.bound > 0)
                residual = np.where(kept, 0.0, residual)
                jacobian = np.where(kept[:, None, :], 0.0, jacobian)
        return residual, jacobian

    def solve(
        self,
        start: Array,
        *,
        curvature: Literal["explore", "polish"],
        precision: Array,
        weights: Array | None = None,
        center: Array | None = None,
        log_y: Array | None = None,
        box: tuple[Array, Array] | None = None,
        max_iterations: int = 200,
        tolerance: float = 1e-10,
    ) -> Solution:
        """Minimise from each row of ``start`` (batch, parameters); see :func:`moe_search.scaling.solver.minimise`.

        A batch is solved in pieces whose Jacobians fit the processor's cache; the pieces do not influence each other.

        Args:
            start: (batch, parameters).
            curvature: of the Huber loss.
            precision: (parameters,), of the prior.
            weights: (batch, runs) of the runs; None: 1.
            center: (batch, parameters) of the prior; None: the problem's.
            log_y: (batch, runs), other observations; None: those of the table.
            box: lower and upper bounds, each (batch, parameters); None: the problem's.
            max_iterations: at most.
            tolerance: relative decrease below which a step is no progress.
        """
        weights = np.ones((1, self.runs)) if weights is None else weights
        center = self.center[None, :] if center is None else center
        lower, upper = box or (self.lower[None, :], self.upper[None, :])
        piece = max(JACOBIAN_NUMBERS // (self.runs * len(self.center)), 1)

        def solve_piece(rows: slice) -> Solution:
            observed = None if log_y is None else log_y[rows]
            return minimise(
                lambda theta, some: self.residuals(theta, None if observed is None else observed[some]),
                start[rows],
                weights=part(weights, rows),
                delta=self.delta,
                lower=part(lower, rows),
                upper=part(upper, rows),
                basis=self.basis,
                mean=part(center, rows),
                precision=precision,
                curvature=curvature,
                max_iterations=max_iterations,
                tolerance=tolerance,
            )

        pieces = [slice(first, first + piece) for first in range(0, len(start), piece)]
        with ThreadPoolExecutor(min(len(pieces), _threads())) as pool:  # array operations let other threads run
            solutions = list(pool.map(solve_piece, pieces))
        return Solution(
            np.concatenate([s.theta for s in solutions]),
            np.concatenate([s.objective for s in solutions]),
            np.concatenate([s.gradient_norm for s in solutions]),
        )

    def starts(self, count: int, rng: np.random.Generator) -> Array:
        """Return starts (count, parameters): published fits, the prior's centre, and a Latin hypercube.

        Exponents and effects spread twice as wide as the prior. Amplitudes are set so that each term is between
        ``SMALLEST_SHARE`` and all of the median loss at the mean run, whatever the exponents: elsewhere no gradient
        points home. Where a law is a sum they are those of least squares.
        """
        strata = rng.permuted(np.tile(np.arange(count), (len(self.center), 1)), axis=1).T
        cube = (strata + rng.uniform(1e-6, 1 - 1e-6, strata.shape)) / count
        theta = self.center + 2 * self.spread * ndtri(cube)
        theta = np.clip(theta, self.lower, self.upper)
        for j, slopes in _scales(self.law, self.center, self.x):
            log_size = np.median(self.log_y) + np.log(SMALLEST_SHARE) * cube[:, j]
            theta[:, j] = log_size - sum(theta[:, k] * slope for k, slope in slopes.items())
        theta = np.clip(theta, self.lower, self.upper)
        if self.amplitudes is not None:
            x = {name: values[self.observed] for name, values in self.x.items()}
            theta = solved(self.law, self.amplitudes, theta, x, self.log_y[self.observed])
        known = [self.law.internal(c) for c in self.law.published.values() if set(c) == set(self.law.names)]
        first = np.concatenate([*known, self.center[None, :]])[:count]
        theta[: len(first)] = first
        return np.clip(theta, self.lower, self.upper)


def _threads() -> int:
    """One a core that this process may use, or what ``OMP_NUM_THREADS`` allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdigit() and int(allowed):
        return int(allowed)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def part(values: Array, rows: slice) -> Array:
    """Return the rows of a batch, or the one row that all problems share."""
    return values if len(values) == 1 else values[rows]


def build_problem(
    law: Law,
    train: pl.DataFrame,
    column: str,
    everything: pl.DataFrame,
    delta: float,
    *,
    bound: Array | None = None,
) -> Problem:
    """Return the problem of fitting ``column`` of ``train``; ``everything`` gives the ratio of the loss's units.

    Args:
        law: the law.
        train: the runs that are fitted.
        column: of the losses.
        everything: the table, held-out runs included.
        delta: where the Huber loss turns linear, in log loss.
        bound: (runs,) see :class:`Problem`; None: all losses were observed.
    """
    x = law.variables(train)
    parameters = law.parameters
    center = np.array([float(p.internal(p.center)) + _unit_shift(p.unit, column, everything) for p in parameters])
    lower = np.array([float(p.internal(p.lower)) for p in parameters])
    upper = np.array([float(p.internal(p.upper)) for p in parameters])
    basis = np.eye(len(parameters))
    for j, slopes in _scales(law, center, x):
        for k, slope in slopes.items():
            basis[j, k] = -slope
    return Problem(
        law=law,
        x=x,
        log_y=np.log(train[column].cast(pl.Float64).to_numpy()),
        delta=delta,
        center=np.clip(center, lower, upper),
        spread=np.array([p.spread for p in parameters]),
        lower=lower,
        upper=upper,
        basis=basis,
        bound=np.zeros(train.height) if bound is None else bound,
        amplitudes=amplitudes_of(law, center, x),
    )


def _unit_shift(unit: str, column: str, frame: pl.DataFrame) -> float:
    """Logarithm of the factor from the unit a prior is stated in to that of the fitted column."""
    own = "bits/byte" if column.startswith("bpb") else "nats/token"
    if unit in {"", own}:
        return 0.0
    ratio = BITS_PER_BYTE_OF_A_NAT_PER_TOKEN
    if {"bpb", "loss"} <= set(frame.columns):
        measured = frame.select((pl.col("bpb") / pl.col("loss")).median()).item()
        ratio = measured if measured is not None and np.isfinite(measured) and measured > 0 else ratio
    return float(np.log(ratio) if own == "bits/byte" else -np.log(ratio))


def _scales(law: Law, center: Array, x: Variables) -> list[tuple[int, dict[int, float]]]:
    """Of each term the parameter that scales it, and the mean slopes of its other parameters over the runs."""
    found = []
    for term in law.terms([np.array([[value]]) for value in center], x):
        scales = [j for j, slope in term.gradient.items() if isinstance(slope, float) and slope == 1.0]
        if scales:
            others = {k: float(np.mean(slope)) for k, slope in term.gradient.items() if k != scales[0]}
            found.append((scales[0], others))
    return found
