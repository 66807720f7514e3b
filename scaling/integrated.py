"""Integrating over one parameter, such as the irreducible loss: neither fitted at its best value, nor assumed.

Hardly any table determines the loss that remains with infinite compute, and a forecast hangs on it. Pinning it makes
an interval that is narrow for the wrong reason. Here it keeps every value that the runs allow:

    p(E | runs) ∝ p(E) (1 + t(E) / freedom)^(-(freedom + 1) / 2)

where t is the profile-likelihood statistic (:mod:`moe_search.scaling.profiles`): the other parameters are fitted anew
at each E, and the objective may rise by what the noise is worth. For a linear parameter with normal noise this is the
exact posterior, Student's t. The prior p(E) is flat in natural units between the parameter's lower bound and the
largest observed loss (where a law's weak prior takes part in its fit, it is part of t).

A draw is then an E from that posterior, and a refit of one resampled table with E held there: the spread of the draws
is that of E and that of everything else given E. A profile, unlike a posterior by sampling, does not weigh an E by how
*many* other parameters go with it; with a power law of two parameters besides, that hardly matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from moe_search.scaling.law import Array
from moe_search.scaling.optimum import Optimum
from moe_search.scaling.problem import Problem
from moe_search.scaling.profiles import covariance_and_scale
from moe_search.scaling.resampling import Resamples
from moe_search.spaces.errors import InvalidInputError

OFFSETS: Final = np.array([0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 20, 40, 80])
"""Standard errors at which the posterior is first looked at, on either side."""
POINTS: Final = 101
FINE: Final = 4
"""Times as many points for a product of posteriors."""
NEGLIGIBLE: Final = 1e-4
"""Density, relative to the best, at which the posterior is cut off."""


@dataclass(frozen=True)
class Density:
    """How probable the values of one parameter are, on a grid; natural units."""

    values: Array
    """(points,), ascending."""
    density: Array
    """(points,): integrates to 1 by the trapezium rule."""

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Return values (count,), one from each of as many parts of equal probability, in random order."""
        steps = 0.5 * np.diff(self.values) * (self.density[1:] + self.density[:-1])
        below = np.concatenate([[0.0], np.cumsum(steps)])
        middles = (np.arange(count) + 0.5) / count * below[-1]
        return rng.permutation(np.interp(middles, below, self.values))

    @property
    def mode(self) -> float:
        """The most probable value of the grid."""
        return float(self.values[np.argmax(self.density)])


@dataclass(frozen=True)
class Posterior(Density):
    """The posterior of one parameter under one law and its runs."""

    theta: Array
    """(points, parameters), internal: the best fit with the parameter held there."""


def product(posteriors: Sequence[Posterior]) -> Density:
    """Return what several tables say together of a parameter that they share.

    Raises:
        InvalidInputError: no value is probable under all of them.
    """
    low, high = max(one.values[0] for one in posteriors), min(one.values[-1] for one in posteriors)
    values = np.linspace(low, max(low, high), FINE * POINTS)
    density = np.prod([np.interp(values, one.values, one.density) for one in posteriors], axis=0)
    if low >= high or density.max() < NEGLIGIBLE * np.prod([one.density.max() for one in posteriors]):
        ranges = " and ".join(f"{one.values[0]:.4g} to {one.values[-1]:.4g}" for one in posteriors)
        raise InvalidInputError(
            f"no value of the shared parameter is probable for all runs, which allow {ranges}",
            fix="a parameter of its own for each group",
        )
    return Density(values, _normalised(values, density))


def posterior_of(problem: Problem, optimum: Optimum, name: str) -> Posterior:
    """Return the posterior of the parameter ``name`` by its profile likelihood.

    Args:
        problem: the law on its runs.
        optimum: its best fit.
        name: of a parameter of the law.
    """
    j = problem.law.index(name)
    parameter = problem.law.parameters[j]
    covariance, _ = covariance_and_scale(problem, optimum)
    best = float(parameter.natural(optimum.theta[j]))
    error = float(np.sqrt(covariance[j, j])) * (best if parameter.transform == "log" else 1.0)
    lowest, highest = parameter.lower, min(parameter.upper, float(np.exp(problem.log_y.max())))
    highest = max(highest, best)
    around = best + error * np.concatenate([-OFFSETS[::-1], [0.0], OFFSETS])
    coarse = np.unique(np.clip(np.concatenate([around, np.linspace(lowest, highest, 9)]), lowest, highest))
    along = covariance[:, j] / covariance[j, j]
    start = optimum.theta + (parameter.internal(coarse) - optimum.theta[j])[:, None] * along
    theta, density = _profiled(problem, optimum, name, coarse, start)
    ends = _cut(coarse, density)
    values = np.linspace(*ends, POINTS)
    start = np.stack([np.interp(values, coarse, theta[:, k]) for k in range(theta.shape[1])], axis=1)
    theta, density = _profiled(problem, optimum, name, values, start)
    return Posterior(values, _normalised(values, density), theta)


def integrate(problem: Problem, optimum: Optimum, name: str, tables: Resamples, rng: np.random.Generator) -> Array:
    """Return draws (resamples, parameters): values of ``name`` from its posterior, and a refitted table with each.

    Args:
        problem: the law on its runs.
        optimum: its best fit.
        name: the parameter.
        tables: the resampled tables.
        rng: of the values.
    """
    found = posterior_of(problem, optimum, name)
    return refit_at(problem, optimum, name, found, found.draw(tables.count, rng), tables=tables)


def refit_at(
    problem: Problem, optimum: Optimum, name: str, found: Posterior, values: Array, *, tables: Resamples
) -> Array:
    """Return the best fit (resamples, parameters) to each table with ``name`` held at its value.

    Args:
        problem: the law on its runs.
        optimum: its best fit.
        name: the parameter.
        found: its posterior, which the fits start from.
        values: (resamples,), natural.
        tables: the resampled tables.
    """
    j = problem.law.index(name)
    held = problem.law.parameters[j].internal(values)
    start = np.stack([np.interp(values, found.values, column) for column in found.theta.T], axis=1)
    return problem.solve(
        _held(start, j, held),
        curvature="polish",
        precision=optimum.precision,
        weights=tables.weights,
        center=tables.center,
        log_y=tables.log_y,
        box=_box(problem, j, held),
        max_iterations=60,
        tolerance=1e-7,
    ).theta


def _normalised(values: Array, density: Array) -> Array:
    total = float(np.sum(0.5 * np.diff(values) * (density[1:] + density[:-1])))
    return np.asarray(density / total)


def _profiled(problem: Problem, optimum: Optimum, name: str, values: Array, start: Array) -> tuple[Array, Array]:
    """Best fit (points, parameters) with the parameter held at each value, and the density relative to the best."""
    j = problem.law.index(name)
    scale = covariance_and_scale(problem, optimum)[1]
    held = problem.law.parameters[j].internal(values)
    box = _box(problem, j, held)
    start = np.clip(_held(start, j, held), *box)
    explored = problem.solve(start, curvature="explore", precision=optimum.precision, box=box, tolerance=1e-6)
    solution = problem.solve(explored.theta, curvature="polish", precision=optimum.precision, box=box)
    statistic = 2 * (solution.objective - min(optimum.objective, float(solution.objective.min()))) / scale
    freedom = optimum.freedom
    return solution.theta, np.exp(-0.5 * (freedom + 1) * np.log1p(statistic / freedom))


def _cut(values: Array, density: Array) -> tuple[float, float]:
    """The values between which the density is not negligible, with one more on either side."""
    there = np.flatnonzero(density > NEGLIGIBLE * density.max())
    return float(values[max(there[0] - 1, 0)]), float(values[min(there[-1] + 1, len(values) - 1)])


def _held(theta: Array, j: int, values: Array) -> Array:
    held = theta.copy()
    held[:, j] = values
    return held


def _box(problem: Problem, j: int, values: Array) -> tuple[Array, Array]:
    """The problem's bounds, with the parameter held at one value in each row."""
    low, high = (np.tile(bound, (len(values), 1)) for bound in (problem.lower, problem.upper))
    low[:, j] = high[:, j] = values
    return low, high
