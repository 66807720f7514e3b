import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from moe_search.scaling.throughput import DEFAULT_TABLE, fit_throughput, read_table
from moe_search.search.initial_design import initial_design
from moe_search.search.policy import Policy
from moe_search.search.price import Price
from moe_search.search.problem import Problem
from moe_search.search.seconds import fit_seconds
from moe_search.search.suggest import suggest
from moe_search.search.trial import Proposal, Row
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design, Scale

SPEED = 2e10
"""FLOPs a second of a model without experts."""


def truth(problem: Problem, design: Design, scale: Scale, *, device: str = "cpu") -> float:
    """Seconds on a backend that is slow for many experts."""
    experts = problem.resolved(design, scale).realised.n_experts
    fast = 0.2 if device == "gpu" else 1.0
    return problem.cost(design, scale) / SPEED * fast * (1 + experts) ** 0.25


def measured(
    problem: Problem, designs: Sequence[Design], *, device: str = "cpu", slow: Sequence[int] = ()
) -> list[Row]:
    world, rows = SimulatedWorld(problem=problem), []
    scales = problem.ladder.scales()
    for index, design in enumerate(designs):
        scale = scales[index % len(scales)]
        proposal = Proposal(design=design, scale=scale, seed=0, reason="a test", predicted_cost=1.0)
        trial = problem.trial(index, proposal)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        a_flop = truth(problem, design, scale, device=device) / problem.cost(design, scale)
        a_flop *= 8.0 if index in slow else 1.0
        timed = tuple(run.replace(wall_seconds=a_flop * run.paid_flops, device=device) for run in runs)
        rows.append(Row(trial=trial, state="finished", runs=timed))
    return rows


def errors(problem: Problem, rows: Sequence[Row]) -> np.ndarray:
    """Logarithms of predicted over true seconds, at the top, of designs that were not measured."""
    model = fit_seconds(problem, rows)
    assert model is not None
    top = problem.ladder.top
    fresh = problem.space.sample(30, 77, accept=problem.is_feasible)
    return np.log([model.seconds(design, top) / truth(problem, design, top) for design in fresh])


@pytest.fixture(scope="module")
def designs(problem: Problem) -> list[Design]:
    return problem.space.sample(40, 5, accept=problem.is_feasible)


def test_measured_trials_teach_it_what_experts_cost(problem: Problem, designs: list[Design]) -> None:
    assert fit_seconds(problem, []) is None
    few, many = errors(problem, measured(problem, designs[:3])), errors(problem, measured(problem, designs))
    assert np.abs(few).max() < 0.5  # three trials give the level
    assert np.abs(many).max() < 0.06
    assert np.abs(many).mean() < 0.4 * np.abs(few).mean()


def test_a_slow_hour_and_another_device_do_not_mislead_it(problem: Problem, designs: list[Design]) -> None:
    assert np.abs(errors(problem, measured(problem, designs, slow=(3, 4, 5)))).max() < 0.12
    rows = measured(problem, designs[:26]) + measured(problem, designs[26:], device="gpu")
    model = fit_seconds(problem, rows)
    assert model is not None
    assert (model.device, model.n_trials) == ("cpu", 40)
    assert np.abs(errors(problem, rows)).max() < 0.12


def test_it_starts_from_the_machine_s_table(problem: Problem, designs: list[Design]) -> None:
    throughput = fit_throughput(read_table(DEFAULT_TABLE))
    assert throughput is not None
    batches = tuple((size, 4096) for size in problem.ladder.sizes)
    priced = problem.replace(price=Price(throughput=throughput, batches=batches))
    top = problem.ladder.top
    before, after = fit_seconds(priced, []), fit_seconds(priced, measured(priced, designs))
    assert before is not None
    assert after is not None
    table = priced.seconds(designs[0], top)
    assert table is not None
    assert before.seconds(designs[0], top) == pytest.approx(table)
    assert np.abs(errors(priced, measured(priced, designs))).max() < 0.25
    wrong = [abs(math.log(m.seconds(d, top) / truth(priced, d, top))) for m in (before, after) for d in designs[:10]]
    assert np.mean(wrong[10:]) < 0.3 * np.mean(wrong[:10])


def test_predictions_stand_with_proposals_and_a_policy_may_count_in_them(
    problem_of_budget: Callable[..., Problem],
) -> None:
    problem = problem_of_budget(tops=12, pool_size=24, neighbours=2, repeat_every=1000)
    world, rows = SimulatedWorld(problem=problem, seed=1), []
    for number, proposal in enumerate(initial_design(problem)):
        trial = problem.trial(number, proposal)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        seconds = truth(problem, trial.design, trial.scale) / problem.cost(trial.design, trial.scale)
        timed = tuple(run.replace(wall_seconds=seconds * run.paid_flops, device="cpu") for run in runs)
        rows.append(Row(trial=trial, state="finished", runs=timed))
    (by_flops,) = suggest(problem, rows)
    assert by_flops.predicted_seconds == pytest.approx(truth(problem, by_flops.design, by_flops.scale), rel=0.1)
    assert problem.trial(len(rows), by_flops).predicted_seconds == by_flops.predicted_seconds
    in_seconds = problem.replace(policy=Policy(stop=False, cost="seconds"))
    (by_seconds,) = suggest(in_seconds, rows)
    assert "per second of" in by_seconds.reason
    assert suggest(in_seconds, rows) == [by_seconds]
    # Nothing measured: FLOPs, as there is nothing else. And of pending trials no result is used.
    bare = [row.replace(runs=tuple(run.replace(wall_seconds=None) for run in row.runs)) for row in rows]
    assert "per FLOP of" in suggest(in_seconds, bare)[0].reason
    slow = rows[-1].replace(runs=tuple(run.replace(wall_seconds=1e9) for run in rows[-1].runs))
    assert suggest(in_seconds, rows[:-1], [slow]) == suggest(in_seconds, rows[:-1], rows[-1:])
