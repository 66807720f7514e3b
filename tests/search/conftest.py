"""A small problem, and the world it is searched in."""

import pytest

from moe_search.search.problem import Problem
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.space import SearchSpace


def make_problem(*, tops: float = 4.0, **fields: object) -> Problem:
    """A problem whose budget pays for ``tops`` runs of the space's centre at the ladder's top."""
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 8, "log": True},
            "activation_ratio": {"low": 0.06, "high": 0.5, "log": True},
            "n_shared_experts": {"choices": [0, 1]},
            "schedule": {"tilt": {"low": -1, "high": 1}},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.02},
        }
    )
    ladder = Ladder(sizes=(300_000, 1_000_000, 3_000_000), tokens=(5_000_000, 10_000_000, 20_000_000))
    problem = Problem.model_validate({"space": space, "ladder": ladder, "budget_flops": 1.0} | fields)
    return problem.replace(budget_flops=tops * problem.cost(space.center(), problem.ladder.top))


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem()


@pytest.fixture(scope="session")
def world(problem: Problem) -> SimulatedWorld:
    return SimulatedWorld(problem=problem, seed=1)


@pytest.fixture(scope="session")
def problem_of_budget():  # a factory, because tests import nothing from each other
    return make_problem
