"""Our policy: cheap where proxies are honest, no worse than a few runs where they are not."""

from collections.abc import Callable

import numpy as np
import pytest

from moe_search.search.replay.play import replay
from moe_search.search.replay.policies import get_policy
from moe_search.search.replay.policies.decision import MOST_IN_A_ROW
from moe_search.search.replay.task import RecordedTable

Recorded = Callable[..., RecordedTable]
SEEDS = 4


def cost(table: RecordedTable, name: str) -> float:
    summary, _ = replay(table, get_policy(name), seeds=SEEDS, budget=60, threshold=0.1)
    assert summary.reached == 1.0
    assert summary.mean_cost is not None
    return summary.mean_cost


def test_honest_proxies_make_the_first_run_at_the_target_the_right_one(recorded: Recorded) -> None:
    table = recorded(noise=0.0005)
    assert cost(table, "decision") < 2
    assert cost(table, "random") > 3


@pytest.mark.slow
def test_proxies_that_say_the_opposite_cost_a_few_runs(recorded: Recorded) -> None:
    table = recorded(gain=-1.0)
    assert cost(table, "decision") < 1.5 * cost(table, "qlognei") + 1


@pytest.mark.slow
def test_proxies_that_say_nothing_cost_a_few_runs(recorded: Recorded) -> None:
    table = recorded(gain=0.0, noise=0.01)
    assert cost(table, "decision") < 1.5 * cost(table, "qlognei") + 1


def test_the_target_is_never_starved(recorded: Recorded) -> None:
    """However cheap proxies are and whatever they say, no longer row of them than the guard allows."""
    table = recorded(gain=0.0, designs=200)
    cheap = RecordedTable(
        table.name,
        table.features,
        table.mixture_width,
        table.loss,
        table.cost * np.array([[1e-6], [1e-6], [1]]),
        table.fidelities,
    )
    _, traces = replay(cheap, get_policy("decision"), seeds=1, budget=4, threshold=0.0)
    for trace in traces:
        row = 0
        for fidelity in trace.fidelity:
            row = 0 if fidelity == cheap.target else row + 1
            assert row <= MOST_IN_A_ROW
