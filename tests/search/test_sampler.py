from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from moe_search.search.initial_design import initial_design
from moe_search.search.problem import Problem
from moe_search.search.sampler import PolicySampler, proposed, record
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.ladder import Ladder


@pytest.fixture(scope="module")
def small(problem_of_budget: Callable[..., Problem]) -> Problem:
    ladder = Ladder(sizes=(300_000, 1_000_000), tokens=(5_000_000,))
    return problem_of_budget(tops=6.0, ladder=ladder, pool_size=8, neighbours=2)


def test_optimize_follows_the_policy_until_the_budget_is_spent(small: Problem) -> None:
    world = SimulatedWorld(problem=small, seed=1)
    seen = []

    def objective(optuna_trial: optuna.Trial) -> float:
        trial = proposed(optuna_trial, small)
        runs = world.evaluate(trial, optuna_trial.report)
        record(optuna_trial, runs)
        seen.append(trial)
        assert runs[-1].bpb is not None
        return runs[-1].bpb

    study = optuna.create_study(sampler=PolicySampler(small))
    with pytest.raises(InvalidInputError, match="is spent after"):
        study.optimize(objective, n_trials=1000)
    start = initial_design(small)
    assert [trial.proposal for trial in seen[: len(start)]] == list(start)
    assert len(seen) > len(start) + 2
    assert "bpb" in seen[-1].reason
    assert sum(trial.predicted_cost for trial in seen) <= small.budget_flops
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.number for trial in done] == [trial.number for trial in seen]
    assert [trial.params["tokens"] for trial in done] == [trial.scale.tokens for trial in seen]
    assert len({tuple(trial.distributions) for trial in done}) == 1


def test_an_undeclared_parameter_is_refused(small: Problem) -> None:
    study = optuna.create_study(sampler=PolicySampler(small))
    with pytest.raises(InvalidInputError, match="asks for 'learning_rate'"):
        study.optimize(lambda trial: trial.suggest_float("learning_rate", 0, 1), n_trials=1)


def test_a_value_without_runs_is_refused(small: Problem) -> None:
    study = optuna.create_study(sampler=PolicySampler(small))

    def objective(optuna_trial: optuna.Trial) -> float:
        proposed(optuna_trial, small)
        return 1.0

    with pytest.raises(InvalidInputError, match="recorded no runs"):
        study.optimize(objective, n_trials=1)
