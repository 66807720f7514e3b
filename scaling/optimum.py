"""The best optimum of a problem, how many starts reached it, and what the runs do not determine.

The weak prior of a law takes part where the law is regularised, or where the runs leave a parameter open; otherwise
the objective is the pure Huber sum, comparable with published values.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moe_search.scaling.identifiability import Unidentifiable, merged, undetermined_directions, unsupported_variables
from moe_search.scaling.law import Array
from moe_search.scaling.problem import Problem
from moe_search.scaling.separating import with_separating_runs
from moe_search.scaling.solver import Solution

REACHED = 1e-5
"""Relative excess of the objective up to which a start has reached the best one."""
EXPLORED = 300
"""Iterations of every start, at most: of some laws most starts still come down after two hundred."""
LOOKED_AT = 8
"""Best starts that say what noise there is, and whether the prior has to take part."""
LEAST_NOISE = 2e-3
"""Standard deviation of log loss that the weak prior is weighed against at least: seeds alone differ by about that."""

LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class Optimum:
    """Where the best start ended."""

    theta: Array
    """(parameters,), internal."""
    objective: float
    gradient_norm: float
    residual: Array
    """(runs,)."""
    jacobian: Array
    """(parameters, runs)."""
    ends: Array
    """(starts,): the objective where each start ended."""
    precision: Array
    """(parameters,): of the prior that took part; zeros for none."""
    dispersion: float
    """What turns the objective into a negative log likelihood."""
    informative: npt.NDArray[np.bool_]
    """(runs,): observed runs, and bounds that the law does not keep by itself."""
    freedom: float
    """Informative runs less the parameters that the runs, not the prior, determine; at least 1."""
    unidentifiable: tuple[Unidentifiable, ...]

    @property
    def reached(self) -> int:
        """Starts that ended within ``REACHED`` of the best objective."""
        return int((self.ends <= self.objective * (1 + REACHED)).sum())


def find_optimum(problem: Problem, starts: int, rng: np.random.Generator) -> Optimum:
    """Minimise from all starts at once and check what was found."""
    nothing = np.zeros(len(problem.center))
    prior = problem.delta * 1e-2 / problem.spread**2  # 1 % noise, until the residuals say better
    regularised = problem.law.regularised
    first = prior if regularised else nothing
    ends = problem.solve(problem.starts(starts, rng), curvature="explore", precision=first, max_iterations=EXPLORED)
    optimum = _examine(problem, ends.best(LOOKED_AT), first)
    if not (regularised or optimum.unidentifiable):
        optimum = _examine(problem, ends, first)
    if regularised or optimum.unidentifiable:
        precision = optimum.dispersion / problem.spread**2
        ends = problem.solve(ends.theta, curvature="explore", precision=precision, max_iterations=EXPLORED)
        optimum = _examine(problem, ends, precision)
    return optimum


def _examine(problem: Problem, ends: Solution, precision: Array) -> Optimum:
    """Polish all ends, from which some are still far, and look at the winner."""
    polished = problem.solve(ends.theta, curvature="polish", precision=precision, tolerance=1e-13)
    winner = int(np.argmin(polished.objective))
    theta, objective = polished.theta[winner], float(polished.objective[winner])
    residual, jacobian = (part[0] for part in problem.residuals(theta[None, :]))
    weight = huber_weight(residual, problem.delta)
    informative = problem.observed | (residual != 0)
    freedom = max(int(informative.sum()) - _determined(problem, jacobian, weight, precision), 1.0)
    dispersion = _dispersion(residual, problem.delta, freedom)
    information = (jacobian * weight) @ jacobian.T / dispersion
    x = {name: values[informative] for name, values in problem.x.items()}
    groups = merged(
        problem.law,
        unsupported_variables(problem.law, x),
        undetermined_directions(problem.law, information),
    )
    return Optimum(
        theta=theta,
        objective=objective,
        gradient_norm=float(polished.gradient_norm[winner]),
        residual=residual,
        jacobian=jacobian,
        ends=polished.objective,
        precision=precision,
        dispersion=dispersion,
        informative=informative,
        freedom=freedom,
        unidentifiable=with_separating_runs(
            problem.law, groups, theta=theta, x=x, information=information, dispersion=dispersion
        ),
    )


def huber_weight(residual: Array, delta: float) -> Array:
    """Return min(1, δ/|r|): what a residual weighs in the reweighted least squares that has the same optimum."""
    weight: Array = delta / np.maximum(np.abs(residual), delta)
    return weight


def mean_slope(residual: Array, delta: float) -> float:
    """Mean derivative of ψ over observed residuals (runs,), which an estimate's variance is inverse to the square of.

    It is taken over a window that holds half of the residuals: inside ``delta`` alone lie, where ``delta`` is far below
    the noise, hardly more residuals than the fit has parameters.
    """
    size = np.abs(residual)
    window = max(delta, float(np.quantile(size, 0.5)))
    return max(float((size <= window).mean()) * delta / window, LEAST_SLOPE)


def _dispersion(residual: Array, delta: float, freedom: float) -> float:
    """Σ r ψ(r) over the degrees of freedom.

    It is the variance where residuals are inside ``delta``, and delta times the mean deviation where they are outside.
    """
    least = min(delta, LEAST_NOISE) * LEAST_NOISE
    return max(float((residual * np.clip(residual, -delta, delta)).sum() / freedom), least)


def _determined(problem: Problem, jacobian: Array, weight: Array, precision: Array) -> float:
    """Trace of (JᵀWJ + P)⁻¹ JᵀWJ: the number of parameters that the runs, not the prior, determine."""
    transformed = problem.basis.T @ jacobian
    data = (transformed * weight) @ transformed.T
    prior = (problem.basis.T * precision) @ problem.basis
    ridge = 1e-12 * np.trace(data) * np.eye(len(data))
    return float(np.trace(np.linalg.solve(data + prior + ridge, data)))
