"""Fits along a line of held values, each started from its neighbours' optima too: a profile without spikes.

Far from the best fit a single start stops here and there short of the optimum, or in a worse basin than the points
beside it. So each point is started again from the line through the last two points, on either side, as long as one of
them has become better. On Clark's routing table the profile of the level of ``joint_moe`` had an end at 24.8 without
this, and has none with it.
"""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moe_search.scaling.law import Array
from moe_search.scaling.problem import Problem
from moe_search.scaling.solver import Solution

Places = npt.NDArray[np.intp]

ROUNDS: Final = 40
FIRST: Final = 20
ITERATIONS: Final = 100
"""Of each start: in the first round enough to see whether a point can become better, then for those that can."""


def continued(
    problem: Problem, solution: Solution, parameter: Places, *, box: tuple[Array, Array], precision: Array, gain: float
) -> Solution:
    """Return the points, each the best of where it ended by itself and where it ends from its neighbours.

    Args:
        problem: the law on its runs.
        solution: where each point ended by itself; those of one parameter follow each other, ascending.
        parameter: (points,): which one is held.
        box: lower and upper bounds, each (points, parameters); the held parameter's are equal.
        precision: (parameters,), of the prior.
        gain: of the objective, below which a point is no better.
    """
    theta, objective, slope = solution.theta.copy(), solution.objective.copy(), solution.gradient_norm.copy()
    held = theta[np.arange(len(theta)), parameter]
    moved = np.ones(len(theta), dtype=bool)
    for turn in range(ROUNDS):
        sides = [_from_beside(theta, held, parameter, moved, side) for side in (-1, 1)]
        points, start = (np.concatenate(part) for part in zip(*sides, strict=True))
        if not len(points):
            break
        low, high = box[0][points], box[1][points]
        again = problem.solve(
            np.clip(start, low, high),
            curvature="polish",
            precision=precision,
            box=(low, high),
            max_iterations=ITERATIONS if turn else FIRST,
        )
        moved[:] = False
        for row, point in enumerate(points):
            if again.objective[row] < objective[point] - gain:
                theta[point], objective[point], moved[point] = again.theta[row], again.objective[row], True
                slope[point] = again.gradient_norm[row]
    return Solution(theta, objective, slope)


def _from_beside(
    theta: Array, held: Array, parameter: Places, moved: npt.NDArray[np.bool_], side: Literal[-1, 1]
) -> tuple[Places, Array]:
    """Points whose neighbour on one side has moved, and where they start: on the line through it and the next one.

    Returns:
        The points (starts,), and their starts (starts, parameters).
    """
    last = len(theta) - 1
    points = np.arange(last + 1)
    beside = np.clip(points + side, 0, last)
    points = points[(beside != points) & (parameter[beside] == parameter) & moved[beside]]
    one, two = points + side, np.clip(points + 2 * side, 0, last)
    step = held[one] - held[two]
    line = (parameter[two] == parameter[points]) & (step != 0)
    slope = np.where(line[:, None], (theta[one] - theta[two]) / np.where(line, step, 1.0)[:, None], 0.0)
    return points, theta[one] + slope * (held[points] - held[one])[:, None]
