"""The best design of a world, and how far a choice is from it.

    regret(design) = (log bpb(design) - best) / (median over the space - best),      at the target scale

The best is sought with the truth itself: a dense sample of the space, then mutations of the best few until a round of
them finds nothing better. What diverges at the target counts as the worst of the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moe_search.search.problem import Problem
from moe_search.search.worlds.dimensions import Array
from moe_search.search.worlds.moe import MoEWorld
from moe_search.spaces.design import Design

POOL, POOL_SEED = 1024, 11
CLIMBERS, MUTANTS, ROUNDS = 2, 24, 24
PATIENCE = 2
"""Rounds without anything better, after which a climb ends."""


@dataclass(frozen=True)
class Optimum:
    """What can be reached in a world at the target."""

    design: Design
    best: float
    """log bpb."""
    median: float
    """Over the space; log bpb."""
    worst: float
    """Of the sample; log bpb."""
    of_pool: float
    """Normalised regret of the best of the sample: what climbing gained."""

    def regret(self, world: MoEWorld, design: Design) -> float:
        """Return the normalised regret of a choice."""
        return float(self.regrets(world, [design])[0])

    def regrets(self, world: MoEWorld, designs: Sequence[Design]) -> Array:
        """Return the normalised regret of each of many choices ``(n,)``."""
        target = world.problem.target_scale
        values = np.where(world.diverging_ones(designs, target), self.worst, world.log_bpbs(designs, target))
        return np.asarray((values - self.best) / (self.median - self.best))


def find_optimum(world: MoEWorld, pool_size: int = POOL) -> Optimum:
    """Return the optimum of a world at its problem's target scale; the same every time.

    Raises:
        ValueError: every design diverges there.
    """
    problem = world.problem
    target = problem.target_scale
    pool = _pool(problem, pool_size)
    values = _values(world, pool)
    sound = values[np.isfinite(values)]
    if not len(sound):
        raise ValueError("every design of the world diverges at the target, so that none is best")
    design, best = pool[int(values.argmin())], float(values.min())
    for start in values.argsort(kind="stable")[:CLIMBERS]:
        climbed, reached = _climb(world, pool[int(start)], float(values[start]))
        if reached < best:
            design, best = climbed, reached
    median, worst = float(np.median(sound)), float(world.log_bpbs(pool, target).max())
    return Optimum(design, best, median, worst, (float(values.min()) - best) / (median - best))


@lru_cache(maxsize=2)
def _pool(problem: Problem, n: int) -> tuple[Design, ...]:
    return tuple(problem.space.sample(n, POOL_SEED, accept=problem.is_feasible))


def _climb(world: MoEWorld, design: Design, value: float) -> tuple[Design, float]:
    problem, idle = world.problem, 0
    for step in range(ROUNDS):
        near = problem.space.neighbours(design, MUTANTS, step, accept=problem.is_feasible)
        values = _values(world, near)
        if len(near) and values.min() < value - 1e-9:
            design, value, idle = near[int(values.argmin())], float(values.min()), 0
            continue
        idle += 1
        if idle == PATIENCE:
            break
    return design, value


def _values(world: MoEWorld, designs: Sequence[Design]) -> Array:
    """Truth at the target ``(n,)``, infinite where training diverges."""
    if not designs:
        return np.empty(0)
    target = world.problem.target_scale
    return np.asarray(np.where(world.diverging_ones(designs, target), np.inf, world.log_bpbs(designs, target)))
