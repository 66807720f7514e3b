import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from moe_search.search.budget import budget_of
from moe_search.search.initial_design import initial_design
from moe_search.search.policy import Policy
from moe_search.search.problem import Problem
from moe_search.search.standing import NEGLIGIBLE, Ending, Standing
from moe_search.search.stopping import expected_regret
from moe_search.search.suggest import decide, ending
from moe_search.search.trial import Row
from moe_search.search.worker import next_step
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design
from moe_search.spaces.ladder import Ladder

ProblemOf = Callable[..., Problem]
SMALL = {
    "ladder": Ladder(sizes=(300_000, 1_000_000), tokens=(5_000_000, 20_000_000)),
    "pool_size": 24,
    "neighbours": 2,
}


def play(world: SimulatedWorld, *, begun: Sequence[Row] = (), in_flight: int = 1) -> list[Row]:
    """Run or go on with a campaign whose results stay out as long as ``in_flight`` trials may be in training."""
    problem = world.problem
    rows = list(begun)
    while True:
        step = next_step(problem, rows)
        is_open = [row.is_open for row in rows]
        if not isinstance(step, str):
            rows.append(Row(trial=problem.trial(len(rows), step), state="running"))
        elif step == "done":
            return rows
        if isinstance(step, str) or sum(is_open) + 1 >= in_flight:
            first = is_open.index(True) if any(is_open) else len(rows) - 1
            runs = tuple(world.evaluate(rows[first].trial, lambda loss, tokens: None))
            rows[first] = Row(trial=rows[first].trial, state="finished", runs=runs)


def test_the_expected_regret_of_two_candidates_is_that_of_their_difference() -> None:
    mean = torch.tensor([0.0, 0.01], dtype=torch.float64)
    covariance = torch.tensor([[4e-4, 1e-4], [1e-4, 9e-4]], dtype=torch.float64)
    sd = math.sqrt(4e-4 + 9e-4 - 2e-4)
    z = -0.01 / sd
    exact = sd * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * 0.5 * math.erfc(-z / math.sqrt(2)))
    assert expected_regret(mean, covariance) == pytest.approx(exact, rel=0.15)
    assert expected_regret(mean, 1e-9 * covariance) == pytest.approx(0.0, abs=1e-9)
    assert expected_regret(mean, torch.full((2, 2), 1.0, dtype=torch.float64)) == pytest.approx(0.0, abs=1e-9)


def test_what_is_below_the_noise_or_cannot_change_ends_a_search() -> None:
    assert Standing(regret=0.002, noise=0.003, gain=0.002).reason_to_stop == "settled"
    assert Standing(regret=0.004, noise=0.003, gain=0.9 * NEGLIGIBLE * 0.003).reason_to_stop == "unchangeable"
    assert Standing(regret=0.004, noise=0.003, gain=1.1 * NEGLIGIBLE * 0.003).reason_to_stop is None


def test_an_ending_says_why_and_what_it_saved() -> None:
    now = Standing(regret=0.002, noise=0.003, gain=1e-6)
    early = Ending(reason="settled", standing=now, saved_flops=3e15, budget_flops=1e16)
    assert early.saved_share == pytest.approx(0.3)
    assert early.sentence == (
        "the search ended early: the expected regret of the choice is 0.002 bits/byte, below the noise between seeds "
        "(0.003); 30% of the budget (3e+15 FLOPs) was not needed"
    )
    assert "at most" in early.replace(reason="unchangeable").sentence
    assert "pays for no further run" in early.replace(reason="budget").sentence
    assert "none has given a loss" in early.replace(standing=None, reason="budget").sentence


def test_any_number_of_workers_stops_at_the_same_trial(problem_of_budget: ProblemOf) -> None:
    """Where the noise between seeds hides the differences, little is worth running."""
    problem = problem_of_budget(tops=4, policy=Policy(stop=True), **SMALL)
    world = SimulatedWorld(problem=problem, seed=2, noise=0.03)
    one, four = play(world), play(world, in_flight=4)
    assert one == four
    assert len(one) > len(initial_design(problem))
    ended = ending(problem, one)
    assert ended is not None
    assert ended.reason == "settled"
    assert ended.standing is not None
    assert ended.standing.regret < ended.standing.noise
    assert ended.saved_share > 0.1
    assert ended.saved_flops == pytest.approx(budget_of(problem.budget_flops, one).remaining)
    # What was chosen, or what is as good within the noise, was run at the top.
    assert any(row.trial.scale == problem.ladder.top for row in one)
    standings = [row.trial.standing for row in one[len(initial_design(problem)) :]]
    assert all(now is not None for now in standings)
    # Nothing ends while a result is out, nor where the user wants all of it spent.
    assert ending(problem, [*one[:-1], Row(trial=one[-1].trial, state="running")]) is None
    assert next_step(problem.replace(policy=Policy(stop=False)), one) != "done"


def test_the_end_of_the_budget_is_said_too(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=2.0, **SMALL)
    rows = play(SimulatedWorld(problem=problem, diverging=1.0))
    ended = ending(problem, rows)
    assert ended is not None
    assert (ended.reason, ended.standing) == ("budget", None)


def _regret(world: SimulatedWorld, design: Design) -> float:
    problem = world.problem
    spread = problem.space.sample(300, 7, accept=problem.is_feasible)
    losses = np.array([world.log_bpb(other, problem.target_scale) for other in spread])
    return float((world.log_bpb(design, problem.target_scale) - losses.min()) / (np.median(losses) - losses.min()))


@pytest.mark.slow
def test_it_saves_a_third_of_the_budget_for_little_regret(problem_of_budget: ProblemOf) -> None:
    saved, extra = [], []
    for seed in range(8):
        fields = SMALL | {"pool_size": 96, "neighbours": 8}
        problem = problem_of_budget(tops=12, seed=seed, lag=0, policy=Policy(stop=True), **fields)
        world = SimulatedWorld(problem=problem, seed=seed)
        stopped = play(world)
        spent = play(SimulatedWorld(problem=problem.replace(policy=Policy(stop=False)), seed=seed), begun=stopped)
        early, late = decide(problem, stopped), decide(problem, spent)
        assert early is not None
        assert late is not None
        saved.append(budget_of(problem.budget_flops, stopped).remaining / problem.budget_flops)
        extra.append(_regret(world, early.design) - _regret(world, late.design))
    assert np.mean(saved) > 0.3
    assert np.mean(extra) < 0.1  # a tenth of the distance from the best to the median design
