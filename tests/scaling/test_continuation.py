import numpy as np
import polars as pl

from moe_search.scaling.continuation import continued
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import find_optimum
from moe_search.scaling.problem import Problem, build_problem
from moe_search.scaling.solver import Solution

LAW = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}


def held_fits() -> tuple[Problem, Solution, tuple[Array, Array], int]:
    """Fits with alpha held at twelve values, and the box that holds it there."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(5.5, 7.5, 30), "tokens": 10 ** rng.uniform(6.5, 9, 30)})
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(0.01 * rng.normal(size=30))
    frame = frame.with_columns(loss=pl.Series(loss))
    problem = build_problem(LAW, frame, "loss", frame, 1e-3)
    best = find_optimum(problem, 16, np.random.default_rng(0)).theta
    j = LAW.index("alpha")
    low, high = (np.tile(bound, (12, 1)) for bound in (problem.lower, problem.upper))
    low[:, j] = high[:, j] = best[j] + np.linspace(-0.03, 0.03, 12)
    start = np.clip(np.tile(best, (12, 1)), low, high)
    found = problem.solve(start, curvature="polish", precision=np.zeros(5), box=(low, high))
    return problem, found, (low, high), j


def test_points_that_stopped_short_reach_what_their_neighbours_found() -> None:
    problem, found, box, j = held_fits()
    spoiled = found.theta.copy()
    for row in (0, 4, 5, 11):  # at an end, two beside each other, at the other end
        spoiled[row] = np.clip(problem.center, box[0][row], box[1][row])
    residual, _ = problem.residuals(spoiled)
    size = np.abs(residual)
    inside = np.minimum(size, problem.delta)
    objective = (inside * (size - 0.5 * inside)).sum(axis=1)
    assert (objective > 2 * found.objective).sum() == 4
    again = continued(
        problem,
        Solution(spoiled, objective, np.zeros(12)),
        np.full(12, j),
        box=box,
        precision=np.zeros(5),
        gain=1e-9,
    )
    np.testing.assert_allclose(again.objective, found.objective, rtol=2e-3)
    np.testing.assert_array_equal(again.theta[:, j], box[0][:, j])


def test_a_neighbour_of_another_parameter_is_none() -> None:
    problem, found, box, j = held_fits()
    parameter = np.arange(12) % 5  # as if each point held another one than those beside it
    worse = Solution(found.theta, 1.5 * found.objective, found.gradient_norm)
    np.testing.assert_array_equal(
        continued(problem, worse, parameter, box=box, precision=np.zeros(5), gain=0.0).objective, worse.objective
    )
    same = continued(problem, worse, np.full(12, j), box=box, precision=np.zeros(5), gain=0.0)
    assert (same.objective < worse.objective).all()
