"""Searches in one world at equal spend: what each would choose for the target as its spend grows.

Ours plays a campaign and chooses by its posterior at the target. A policy of :mod:`moe_search.search.replay.policies`
plays on the world's table, whose last scale is the ladder's top, and chooses the best design that it has seen at the
largest scale it has run so far: none of them can look beyond the ladder.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from moe_search.search.replay.policies import get_policy
from moe_search.search.replay.policy import View
from moe_search.search.suggest import decide
from moe_search.search.trial import Row
from moe_search.search.worlds.moe import MoEWorld
from moe_search.search.worlds.optimum import Optimum
from moe_search.search.worlds.playing import play
from moe_search.search.worlds.table import WorldTable
from moe_search.spaces.design import Design

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Of the budget, at which choices are looked at."""


class Curve(NamedTuple):
    """One search in one world."""

    regret: tuple[float, ...]
    """Normalised, of the choice after each of ``SHARES`` was spent; infinite where there is no choice yet."""
    runs: int
    seconds: float
    """CPU seconds of the search itself."""


def ours(world: MoEWorld, optimum: Optimum) -> Curve:
    """Play a campaign; its choice is that of ``decide``."""
    budget = world.problem.budget_flops
    before = None
    regret: list[float] = []
    began, looked = time.process_time(), 0.0
    rows_now = 0
    for rows in play(world):
        spent = sum(row.settled_flops for row in rows) / budget
        while len(regret) < len(SHARES) and spent > SHARES[len(regret)] * (1 + 1e-9):
            at = time.process_time()
            regret.append(_chosen(world, optimum, before))
            looked += time.process_time() - at
        before, rows_now = rows, len(rows)
    seconds = time.process_time() - began - looked
    regret += [_chosen(world, optimum, before)] * (len(SHARES) - len(regret))
    return Curve(tuple(regret), rows_now, seconds)


def _chosen(world: MoEWorld, optimum: Optimum, rows: Sequence[Row] | None) -> float:
    decision = decide(world.told(world.problem), rows) if rows else None
    return optimum.regret(world, decision.design) if decision else float("inf")


def of_policy(name: str, world: MoEWorld, table: WorldTable, optimum: Optimum) -> Curve:
    """Play the policy called ``name`` on the world's table.

    Raises:
        InvalidInputError: there is no such policy.
    """
    policy = get_policy(name)()
    view = View(table.table, np.random.default_rng((world.seed, 5)))
    budget = world.problem.budget_flops / table.unit
    chosen: list[tuple[float, Design]] = []
    began = time.process_time()
    while proposed := policy.propose(view):
        ended = False
        for run in proposed:
            cost = float(table.table.cost[run])
            ended = view.spent + cost > budget
            if ended:
                break
            view.runs.append(run)
            view.losses.append(float(table.table.loss[run]))
            view.spent += cost
            chosen.append((view.spent / budget, table.designs[_best_seen(view)]))
        if ended:
            break
    seconds = time.process_time() - began
    return Curve(_at_shares(chosen, lambda design: optimum.regret(world, design)), len(view.runs), seconds)


def _best_seen(view: View) -> int:
    """The design of the least loss at the largest scale that was run."""
    largest = int(view.fidelity.max())
    there = np.flatnonzero(view.fidelity == largest)
    return int(view.design[there[int(np.array(view.losses)[there].argmin())]])


def _at_shares(chosen: Sequence[tuple[float, Design]], regret: Callable[[Design], float]) -> tuple[float, ...]:
    found = []
    for share in SHARES:
        within = [design for spent, design in chosen if spent <= share * (1 + 1e-9)]
        found.append(regret(within[-1]) if within else float("inf"))
    return tuple(found)
