from collections.abc import Callable

import numpy as np
import pytest

from moe_search.search.replay.policies.gated_promotion import BRACKET, CONTROLS, GatedPromotion
from moe_search.search.replay.policy import View
from moe_search.search.replay.task import RecordedTable

Recorded = Callable[..., RecordedTable]


def rungs(table: RecordedTable, seed: int) -> tuple[list[list[int]], View]:
    """What is run until the second scale has decided who goes to the target: brackets, controls, promoted."""
    view, policy = View(table, np.random.default_rng(seed)), GatedPromotion()
    asked = []
    for _ in range(3):
        runs = policy.propose(view)
        asked.append([i for _, i in runs])
        for run in runs:
            view.runs.append(run)
            view.losses.append(float(table.loss[run]))
    return asked, view


def test_an_open_gate_promotes_the_best_third(recorded: Recorded) -> None:
    table = recorded(noise=0.0)
    (bracket, controls, promoted), view = rungs(table, 0)
    assert (len(bracket), len(controls)) == (BRACKET, CONTROLS)
    best = sorted(bracket, key=lambda i: table.loss[0, i])[: BRACKET // 3]
    assert set(promoted) == set(best) - set(controls)  # controls are not run twice
    assert {s for s, _ in view.runs} == {0, 1}


@pytest.mark.parametrize("seed", range(4))
def test_a_scale_that_says_the_opposite_of_the_next_does_not_decide(recorded: Recorded, seed: int) -> None:
    table = recorded(noise=0.0)
    turned = table.loss.copy()
    turned[0] = 2 * np.median(turned[0]) - turned[0]
    table = RecordedTable(table.name, table.features, table.mixture_width, turned, table.cost, table.fidelities)
    (bracket, _, promoted), _ = rungs(table, seed)
    best = set(sorted(bracket, key=lambda i: table.loss[0, i])[: BRACKET // 3])
    assert not set(promoted) <= best
