"""``moe-search plan --rehearse``: small campaigns in drawn worlds, as a function, a table and JSON."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from moe_search.experiments.cli.main import main
from moe_search.experiments.rehearsal import LEVELS, Rehearsal, rehearse
from moe_search.experiments.rehearsal_table import rehearsal_renderables
from moe_search.search.problem import Problem
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.space import SearchSpace

SPEC = """\
name: rehearsed
folder: results
space:
  granularity: {low: 1, high: 2}
  activation_ratio: {choices: [0.25, 0.5]}
  n_experts: {choices: [4, 8]}
  mixture: {domains: [code, wiki_en], floor: 0.1}
ladder: {sizes: [20_000, 60_000], tokens: [50_000, 100_000]}
shape: {seq_len: 64, head_dim: 8, d_model_multiple: 8}
corpus: {vocab_size: 512}
training: {batch_tokens: 512, evaluation_tokens: 1024}
budget: {train_flops: 4.0e+10}
target: {train_flops: 1.0e+18}
"""


@pytest.fixture(scope="module")
def problem() -> Problem:
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 4, "log": True},
            "activation_ratio": {"low": 0.1, "high": 0.5, "log": True},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.05},
            "controls": {"dense": False, "random_router": False},
        }
    )
    ladder = Ladder(sizes=(300_000, 1_000_000), tokens=(2_000_000, 8_000_000))
    problem = Problem(space=space, ladder=ladder, budget_flops=1.0, pool_size=24, neighbours=4)
    return problem.replace(budget_flops=2 * problem.cost(space.center(), ladder.top))


@pytest.fixture(scope="module")
def rehearsed(problem: Problem) -> tuple[Rehearsal, list[str]]:
    said: list[str] = []
    return rehearse(problem, 2, factors=(0.02, 0.5, 1.0), log=said.append), said


def test_each_budget_is_played_in_every_world(problem: Problem, rehearsed: tuple[Rehearsal, list[str]]) -> None:
    rehearsal, said = rehearsed
    assert "0.02 of the budget does not pay for one proxy" in said
    assert [budget.factor for budget in rehearsal.budgets] == [0.5, 1.0]
    assert rehearsal.judged_at.n_active == 10 * problem.ladder.top.n_active
    for budget in rehearsal.budgets:
        assert len(budget.outcomes) + budget.undecided == 2
        assert 0.5 < sum(budget.spend().values()) <= 1 + 1e-9
        for outcome in budget.outcomes:
            assert outcome.regret >= 0
            assert 0 <= outcome.set_share <= 1
        assert budget.coverage(LEVELS[0]) <= budget.coverage(LEVELS[1])
        regrets = budget.regrets()
        assert regrets is not None
        assert regrets[1] <= regrets[2] <= regrets[3]
    half, whole = rehearsal.budgets
    assert whole.mean(lambda one: sum(one.spent.values())) > half.mean(lambda one: sum(one.spent.values()))


def test_it_is_the_same_every_time(problem: Problem, rehearsed: tuple[Rehearsal, list[str]]) -> None:
    again = rehearse(problem, 1, factors=(0.5,))
    assert again.budgets[0].outcomes[0] == rehearsed[0].budgets[0].outcomes[0]


def test_a_target_of_the_problem_is_where_it_is_judged(problem: Problem) -> None:
    target = problem.ladder.top.replace(tokens=16_000_000)
    assert rehearse(problem.replace(target=target), 1, factors=(0.5,)).judged_at == target


def test_no_world_is_no_rehearsal(problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match="0 worlds"):
        rehearse(problem, 0)


def test_a_person_sees_regret_and_spend(rehearsed: tuple[Rehearsal, list[str]]) -> None:
    console = Console(width=160, record=True)
    for part in rehearsal_renderables(rehearsed[0]):
        console.print(part)
    text = console.export_text()
    regrets = rehearsed[0].budgets[1].regrets()
    assert regrets is not None
    assert f"{regrets[0]:.2f}" in text
    assert "10M x 80M" in text
    assert "1M x 8M" in text


@pytest.mark.slow
def test_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "campaign.yaml").write_text(SPEC)
    assert main(["plan", "campaign.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rehearsal"] is None
    assert main(["plan", "campaign.yaml", "--rehearse", "--worlds", "1", "--json"]) == 0
    printed = capsys.readouterr()
    rehearsal = json.loads(printed.out)["rehearsal"]
    assert rehearsal["worlds"] == 1
    assert [budget["factor"] for budget in rehearsal["budgets"]] == [0.5, 1.0, 2.0]
    assert all(budget["regret"] is None or budget["regret"]["mean"] >= 0 for budget in rehearsal["budgets"])
    assert "world 1 of 1, 1 x budget" in printed.err
