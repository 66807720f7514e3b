from collections.abc import Callable

import numpy as np
import pytest

from moe_search.search.replay.play import Trace, play, replay, summarise
from moe_search.search.replay.policies import get_policy, policy_names
from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import RecordedTable
from moe_search.spaces.errors import InvalidInputError

Recorded = Callable[..., RecordedTable]


class Script:
    """Asks for what it was told to."""

    def __init__(self, *runs: Run) -> None:
        self.runs = list(runs)

    def propose(self, view: View) -> list[Run]:
        del view
        return [self.runs.pop(0)] if self.runs else []


def test_every_run_is_charged_and_only_the_target_counts(recorded: Recorded) -> None:
    table = recorded()
    order = np.argsort(table.loss[2])
    worse, best = int(order[40]), int(order[0])
    trace = play(table, Script((0, best), (1, best), (2, worse), (2, best)), seed=0, budget=10, threshold=0.1)
    assert trace.cost == pytest.approx((0.002, 0.052, 1.052, 2.052))
    assert trace.regret[:2] == (np.inf, np.inf)
    assert trace.regret[2] > 0.1
    assert trace.regret[3] == 0
    assert trace.reached(0.1) == pytest.approx(2.052)
    assert trace.regret_at(1.0) == np.inf
    assert trace.regret_at(2.06) == 0


@pytest.mark.parametrize("runs", [((0, 0), (0, 0)), ((2, 0), (2, 0))])
def test_a_policy_may_not_ask_twice(recorded: Recorded, runs: tuple[Run, ...]) -> None:
    with pytest.raises(AssertionError, match="Script asked for"):
        play(recorded(), Script(*runs), seed=0, budget=10, threshold=0.0)


def test_a_summary_averages_those_who_found_it(recorded: Recorded) -> None:
    table = recorded()
    traces = (Trace((1.0, 2.0), (0.5, 0.05), (2, 2), 0.2, 2), Trace((1.0,), (0.6,), (2,), 0.1, 1))
    summary = summarise(table, traces, threshold=0.1)
    assert (summary.reached, summary.mean_cost, summary.median_cost) == (0.5, 2.0, 2.0)
    assert summary.regret_at == {
        "1": 0.55,
        "2": pytest.approx(0.325),
        "4": pytest.approx(0.325),
        "8": pytest.approx(0.325),
    }
    assert summary.seconds_per_suggestion == pytest.approx(0.1)
    assert summary.evaluations == {"small": 0.0, "mid": 0.0, "big": 1.5}
    nobody = summarise(table, traces[1:], threshold=0.1)
    assert nobody.mean_cost is None


SLOW = {"mfkg"}


@pytest.mark.parametrize("name", sorted(set(policy_names()) - SLOW))
def test_every_policy_plays_by_the_rules_and_finds_it_in_the_end(recorded: Recorded, name: str) -> None:
    table = recorded(designs=24)
    summary, traces = replay(table, get_policy(name), seeds=2, budget=60, threshold=0.1)
    assert summary.reached == 1.0
    again = play(table, get_policy(name)(), seed=1, budget=60, threshold=0.1)
    assert (again.cost, again.regret) == (traces[1].cost, traces[1].regret)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_slow_policies_play_by_the_rules_too(recorded: Recorded, name: str) -> None:
    traces = [play(recorded(designs=24), get_policy(name)(), seed=1, budget=3.0055, threshold=0.0) for _ in range(2)]
    assert traces[0].cost == traces[1].cost
    assert traces[0].fidelity == traces[1].fidelity
    assert traces[0].suggestions > 5  # the first ones are random


def test_the_budget_ends_a_replay(recorded: Recorded) -> None:
    trace = play(recorded(), get_policy("random")(), seed=0, budget=3, threshold=0.0)
    assert trace.cost[-1] == 3


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"unknown policy 'radnom'.*nearest fix: random"):
        get_policy("radnom")
