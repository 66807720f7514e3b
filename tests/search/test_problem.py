import math
import time

import pytest

from moe_search.search import parameters
from moe_search.search.budget import budget_of
from moe_search.search.initial_design import initial_design
from moe_search.search.ledger import Ledger
from moe_search.search.problem import Problem
from moe_search.search.status import status_of, summarise
from moe_search.search.trial import Row
from moe_search.search.worlds.simulated import DIVERGES_AFTER, SimulatedWorld
from moe_search.spaces.accounting import train_flops
from moe_search.spaces.design import Scale


def test_a_trial_costs_its_trunk_and_the_decays_of_shorter_horizons(problem: Problem) -> None:
    design = problem.space.center()
    scale = problem.ladder.top
    architecture = problem.resolved(design, scale).architecture
    tokens = 20e6 + problem.decay_share * (5e6 + 10e6)
    assert problem.cost(design, scale) == pytest.approx(train_flops(architecture, round(tokens)))
    shortest = Scale(n_active=scale.n_active, tokens=5_000_000)
    assert problem.cost(design, shortest) == pytest.approx(train_flops(architecture, 5_000_000))


def test_the_runs_of_a_trial_pay_what_it_was_predicted_to_cost(problem: Problem, world: SimulatedWorld) -> None:
    for proposal in initial_design(problem):
        trial = problem.trial(0, proposal)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        assert tuple(run.tokens for run in runs) == trial.horizons
        assert trial.horizons[-1] == trial.scale.tokens
        row = Row(trial=trial, state="finished", runs=tuple(runs))
        assert row.settled_flops == pytest.approx(trial.predicted_cost, rel=1e-12)


def test_the_budget_is_read_off_the_rows(problem: Problem, world: SimulatedWorld) -> None:
    trials = [problem.trial(i, proposal) for i, proposal in enumerate(initial_design(problem)[:4])]
    runs = [tuple(world.evaluate(trial, lambda loss, tokens: None)) for trial in trials]
    diverging = world.replace(diverging=1.0)
    rows = [
        Row(trial=trials[0], state="finished", runs=runs[0]),
        Row(trial=trials[1], state="finished", runs=tuple(diverging.evaluate(trials[1], lambda loss, tokens: None))),
        Row(trial=trials[2], state="failed", message="no"),
        Row(trial=trials[3], state="running"),
    ]
    budget = budget_of(100.0, rows)
    cost = [trial.predicted_cost for trial in trials]
    per_token = problem.cost(trials[1].design, Scale(n_active=trials[1].scale.n_active, tokens=5_000_000)) / 5e6
    stopped = DIVERGES_AFTER * per_token * trials[1].scale.tokens
    assert budget.settled == pytest.approx(cost[0] + stopped + cost[2])
    assert budget.reserved == cost[3]
    assert budget.remaining == 100.0 - budget.settled - budget.reserved
    # A proposal counts pending rows at what was predicted, whether or not they are done.
    assert budget_of(100.0, rows[:1], rows[1:]).reserved == sum(cost[1:])


def test_a_target_without_an_architecture_stands_for_itself(problem: Problem) -> None:
    design = problem.space.center()
    tiny = Scale(n_active=10, tokens=10)
    assert problem.realised(design, tiny) == (design, tiny)
    realised, scale = problem.realised(design, problem.ladder.top)
    assert realised.granularity == pytest.approx(design.granularity, rel=0.2)
    assert scale.n_active == pytest.approx(problem.ladder.top.n_active, rel=0.1)
    assert problem.target_scale == problem.ladder.top


def test_run_keys_tell_apart_what_may_differ(problem: Problem) -> None:
    proposal = initial_design(problem)[0]
    keys = {
        problem.trial(0, proposal).run_key,
        problem.trial(0, proposal.replace(seed=9)).run_key,
        problem.trial(0, proposal.replace(scale=problem.ladder.top)).run_key,
        problem.replace(context="another corpus").trial(0, proposal).run_key,
    }
    assert len(keys) == 4
    assert problem.trial(5, proposal).run_key == problem.trial(0, proposal).run_key


def test_flat_parameters_fit_their_distributions(problem: Problem) -> None:
    distributions = parameters.distributions(problem)
    controls = set(problem.space.controls())
    for proposal in initial_design(problem):
        flat = parameters.values(proposal, problem)
        assert flat.keys() == distributions.keys()
        for name, distribution in distributions.items():
            assert distribution._contains(distribution.to_internal_repr(flat[name])), name
        if proposal.design not in controls:
            assert flat["n_experts"] > 1
        assert 2 ** flat["log2_n_active"] == pytest.approx(proposal.scale.n_active)


def test_status_shows_the_best_at_the_largest_scale(
    problem: Problem, world: SimulatedWorld, tmp_path: pytest.TempPathFactory
) -> None:
    ledger = Ledger(f"{tmp_path}/journal.log", problem=problem)
    proposals = initial_design(problem)
    for number, proposal in enumerate(proposals[:4]):
        ledger.append(proposal, number=number)
    for _ in range(2):
        claim = ledger.claim("me")
        assert claim is not None
        ledger.commit(claim, world.evaluate(claim.trial, lambda loss, tokens: None))
    claim = ledger.claim("me")
    assert claim is not None
    ledger.report(claim, 4.5, 2_000_000)
    status = status_of(ledger)
    assert status.trials == {"finished": 2, "running": 1, "waiting": 1}
    assert status.best is not None
    assert status.best.trial == 1
    assert status.best.scale == max(proposals[:2], key=lambda p: p.predicted_cost).scale
    assert (status.running[0].owner, status.running[0].tokens, status.running[0].loss) == ("me", 2_000_000, 4.5)
    assert status.running[0].is_held
    assert status.running[0].attempt == 1
    assert status.running[0].renewed == pytest.approx(time.time(), abs=10)
    assert [(worker.owner, worker.state, worker.trial) for worker in status.workers] == [("me", "working", 2)]
    assert status.failures == dict.fromkeys(("preempted", "lost", "error", "oom", "diverged"), 0)
    assert status.budget.reserved == sum(p.predicted_cost for p in proposals[2:4])
    assert type(status).model_validate_json(status.model_dump_json()) == status
    ledger.release(claim)
    assert status_of(ledger).failures["preempted"] == 1
    assert not status_of(ledger).running[0].is_held
    assert summarise(1.0, [], {}).best is None


def test_worlds_are_reproducible_and_differ(problem: Problem) -> None:
    trial = problem.trial(0, initial_design(problem)[1])
    world = SimulatedWorld(problem=problem, seed=1)
    again = SimulatedWorld.model_validate_json(world.model_dump_json())
    first = world.evaluate(trial, lambda loss, tokens: None)
    assert again.evaluate(trial, lambda loss, tokens: None) == first
    assert SimulatedWorld(problem=problem, seed=2).evaluate(trial, lambda loss, tokens: None) != first
    for run in first:
        truth = world.log_bpb(trial.design, trial.scale.replace(tokens=run.tokens))
        assert run.bpb is not None
        assert math.log(run.bpb) == pytest.approx(truth, abs=6 * world.noise)
    other_seed = problem.trial(0, initial_design(problem)[1].replace(seed=5))
    assert world.evaluate(other_seed, lambda loss, tokens: None)[-1].bpb != first[-1].bpb
    assert first[0].bpb is not None
    assert first[-1].bpb is not None
    assert first[0].bpb > first[-1].bpb
