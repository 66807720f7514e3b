"""Searches in one world: the table that policies see, and what each would choose as its spend grows."""

import math
from itertools import pairwise

import numpy as np
import pytest

from moe_search.search.problem import Problem
from moe_search.search.worlds.contest import SHARES, of_policy, ours
from moe_search.search.worlds.moe import DIVERGES_AFTER, MoEWorld
from moe_search.search.worlds.optimum import Optimum, find_optimum
from moe_search.search.worlds.playing import BEYOND, full_scale, play
from moe_search.search.worlds.table import MOST_EPOCHS, WorldTable, tabulate
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.space import SearchSpace


@pytest.fixture(scope="module")
def world() -> MoEWorld:
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 8, "log": True},
            "activation_ratio": {"low": 0.1, "high": 0.5, "log": True},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.05},
            "controls": {"dense": False, "random_router": False},
        }
    )
    ladder = Ladder(sizes=(300_000, 3_000_000), tokens=(2_000_000, 8_000_000))
    problem = Problem(space=space, ladder=ladder, budget_flops=1.0, pool_size=16, neighbours=2)
    problem = problem.replace(budget_flops=3 * problem.cost(space.center(), ladder.top), target=full_scale(problem))
    return MoEWorld(problem=problem, seed=1, diverging=0.1)


@pytest.fixture(scope="module")
def optimum(world: MoEWorld) -> Optimum:
    return find_optimum(world, 64)


@pytest.fixture(scope="module")
def table(world: MoEWorld) -> WorldTable:
    return tabulate(world, 40)


def test_a_table_has_every_design_at_every_scale(world: MoEWorld, table: WorldTable) -> None:
    scales = world.problem.ladder.scales()
    found = table.table
    assert found.loss.shape == found.cost.shape == (len(scales), 40)
    assert np.isfinite(found.loss).all()
    assert found.mixture_width == 3
    assert np.allclose((found.features[:, :3] ** 2).sum(axis=1), 1)
    top = world.problem.ladder.top
    status = np.array(world.statuses(table.designs, top))
    fine = status == "finished"
    assert 0 < fine.sum() < 40
    assert np.log(found.loss[-1, fine]) == pytest.approx(world.log_bpbs(table.designs, top)[fine], abs=0.05)
    assert (found.loss[-1, ~fine] == found.loss[-1, fine].max()).all()
    assert np.median(found.cost[-1]) == pytest.approx(1, rel=0.3)
    assert found.cost[-1, status == "diverged"].max() < 2 * DIVERGES_AFTER


def test_a_campaign_is_played_to_its_end(world: MoEWorld) -> None:
    tables = list(play(world))
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(tables))
    rows = tables[-1]
    assert [row.trial.number for row in rows] == list(range(len(rows)))
    spent = sum(row.settled_flops for row in rows)
    assert 0.8 * world.problem.budget_flops < spent <= world.problem.budget_flops


def test_full_scale_is_the_target_or_beyond_the_ladder(world: MoEWorld) -> None:
    problem = world.problem
    assert full_scale(problem) == problem.target
    top = problem.ladder.top
    assert full_scale(problem.replace(target=None)).n_active == BEYOND * top.n_active
    assert full_scale(problem.replace(target=None)).tokens == BEYOND * top.tokens


def test_ours_chooses_at_every_spend(world: MoEWorld, optimum: Optimum) -> None:
    curve = ours(world, optimum)
    assert len(curve.regret) == len(SHARES)
    known = [value for value in curve.regret if math.isfinite(value)]
    assert known
    assert min(known) >= -0.05  # of 64 designs and climbs from them, somebody may find a slightly better one
    assert math.isfinite(curve.regret[-1])


@pytest.mark.parametrize("name", ["random", "asha", "rank_at_one_scale"])
def test_a_policy_pays_for_what_it_sees(name: str, world: MoEWorld, table: WorldTable, optimum: Optimum) -> None:
    curve = of_policy(name, world, table, optimum)
    known = [value for value in curve.regret if math.isfinite(value)]
    of_table = optimum.regrets(world, table.designs)
    assert all(np.isclose(of_table, value).any() for value in known)
    assert curve == of_policy(name, world, table, optimum)._replace(seconds=curve.seconds)
    cheapest = float(table.table.cost.min())
    assert 0 < curve.runs <= world.problem.budget_flops / table.unit / cheapest


def test_more_random_runs_choose_better(table: WorldTable, world: MoEWorld, optimum: Optimum) -> None:
    """With the whole table run at the top, what is chosen is what looks best there."""
    rich = world.replace(problem=world.problem.replace(budget_flops=100 * world.problem.budget_flops))
    curve = of_policy("random", rich, table, optimum)
    assert curve.runs == 40
    best = table.designs[int(table.table.loss[-1].argmin())]
    assert curve.regret[-1] == pytest.approx(optimum.regret(world, best))


def test_who_searches_knows_how_much_text_there_is(world: MoEWorld, table: WorldTable) -> None:
    """Ours in its problem, the others by a cap on the repetition at the target."""
    unique = world.told(world.problem).full_scale_text
    assert unique is not None
    assert unique == world.told(world.problem).unique_tokens
    assert min(unique) < 1e12
    tokens = world.problem.target_scale.tokens
    for domain, amount in zip(world.problem.space.domains, unique, strict=True):
        read = [design.mixture[domain] * tokens / amount for design in table.designs]
        assert np.quantile(read, 0.9) <= MOST_EPOCHS
