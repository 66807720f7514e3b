import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from moe_search.search import initial_design as initial_module
from moe_search.search import problem as problem_module
from moe_search.search import suggest as suggest_module
from moe_search.search import surrogate as surrogate_module
from moe_search.search.budget import budget_of
from moe_search.search.initial_design import initial_design
from moe_search.search.problem import Problem
from moe_search.search.suggest import decide, rows_needed, suggest
from moe_search.search.surrogate import FORMS, MAX_FIT_ROWS, MAX_FIT_STEPS, DesignScaleKernel
from moe_search.search.trial import Proposal, Row, Trial
from moe_search.search.worker import next_step
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.run import Run

ProblemOf = Callable[..., Problem]
LADDER = Ladder(sizes=(300_000, 1_000_000), tokens=(5_000_000, 20_000_000))


def done(world: SimulatedWorld, proposals: Sequence[Proposal], first: int = 0) -> list[Row]:
    return [row_of(world.problem.trial(first + i, proposal), world) for i, proposal in enumerate(proposals)]


def row_of(trial: Trial, world: SimulatedWorld) -> Row:
    return Row(trial=trial, state="finished", runs=tuple(world.evaluate(trial, lambda loss, tokens: None)))


def campaign(world: SimulatedWorld, change: Callable[[Trial, Run], Run] = lambda trial, run: run) -> list[Row]:
    """Run a campaign to its end, ``change`` standing between the world and what is seen of it."""
    rows: list[Row] = []
    while not isinstance(step := next_step(world.problem, rows), str):
        row = row_of(world.problem.trial(len(rows), step), world)
        rows.append(row.replace(runs=tuple(change(row.trial, run) for run in row.runs)))
    return rows


def forget_caches() -> None:
    for cached in (
        problem_module._resolved,
        problem_module._realised,
        problem_module._features,
        problem_module._train_flops_per_token,
        initial_module.initial_design,
        suggest_module._pool,
        suggest_module._cheapest,
    ):
        cached.cache_clear()


def test_the_same_table_gives_the_same_proposals(problem: Problem, world: SimulatedWorld) -> None:
    rows = done(world, initial_design(problem))
    first = suggest(problem, rows[:-2], rows[-2:], n=2)
    forget_caches()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = Problem.model_validate_json(problem.model_dump_json())
        assert again == problem
        assert hash(again) == hash(problem)
        # Unfinished or not, of pending rows only the trial counts.
        pending = [Row(trial=row.trial, state="running") for row in rows[-2:]]
        assert suggest(again, rows[:-2], pending, n=2) == first
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert first[0].predicted_mean is not None
    assert first[0].predicted_sd is not None
    assert "knowledge gradient" in first[0].reason
    assert "bpb" in first[0].reason
    assert "\n" not in first[0].reason


def test_the_initial_design_is_nested_and_reaches_the_top(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=40)
    design = initial_design(problem)
    scales: dict[Design, set[tuple[int, int]]] = {}
    for proposal in design:
        scales.setdefault(proposal.design, set()).add((proposal.scale.n_active, proposal.scale.tokens))
    assert any(proposal.scale == problem.ladder.top for proposal in design)
    assert sum(len(found) >= 2 for found in scales.values()) >= 5
    controls = problem.space.controls()
    assert len(controls) == 2
    assert all(len(scales[control]) >= 2 for control in controls)
    cost = [problem.cost(p.design, p.scale) for p in design]
    assert [p.predicted_cost for p in design] == cost
    assert sum(cost) <= problem.initial_share * problem.budget_flops
    cheap = sum(p.scale.n_active == problem.ladder.sizes[0] for p in design)
    assert cheap > len(design) / 2
    repeats = [p for p in design if p.seed != problem.seed]
    assert len(repeats) == 1
    assert len({(p.design, p.scale, p.seed) for p in design}) == len(design)


def test_the_initial_design_covers_the_space(problem_of_budget: ProblemOf) -> None:
    """A published campaign enumerated its combinations in alphabetical order and saw 5 % of its space."""
    problem = problem_of_budget(tops=40)
    controls = problem.space.controls()
    designs = {p.design for p in initial_design(problem)} - set(controls)
    names = problem.space.feature_names
    features = np.array([problem.space.features(design) for design in designs])
    for name, low, high in zip(names, features.min(axis=0), features.max(axis=0), strict=True):
        if name in ("granularity", "activation_ratio", "tilt"):
            assert low < 0.2, name
            assert high > 0.8, name
        if name.startswith("sqrt_weight"):
            assert high - low > 0.4, name
    shared = features[:, names.index("n_shared_experts")]
    assert {float(value) for value in shared} == {0.0, 1.0}


def test_a_small_budget_keeps_the_anchors(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=1.0)
    design = initial_design(problem)
    assert {p.design for p in design} >= {problem.space.center()}
    assert sum(p.predicted_cost for p in design) <= problem.initial_share * problem.budget_flops
    assert max(p.predicted_cost for p in design) > 0.1 * problem.budget_flops


def test_a_budget_below_one_proxy_says_what_one_costs(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget()
    cheapest = problem.cost(problem.space.center(), problem.ladder.scales()[0])
    with pytest.raises(InvalidInputError, match=re.escape(f"at least {cheapest:.3g} FLOPs")) as caught:
        suggest(problem.replace(budget_flops=0.9 * cheapest), ())
    assert caught.value.where == "budget"
    only = suggest(problem.replace(budget_flops=1.01 * cheapest), (), n=5)
    assert [proposal.predicted_cost for proposal in only] == [cheapest]


def test_a_ladder_that_no_design_fits_says_why(problem_of_budget: ProblemOf) -> None:
    tiny = problem_of_budget().replace(ladder=Ladder(sizes=(300,), tokens=(1_000_000,)))
    with pytest.raises(InvalidInputError, match="no architecture has 300 active parameters"):
        suggest(tiny, ())


def test_the_budget_is_never_exceeded_and_hardly_left_over(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=4, ladder=LADDER, pool_size=16, neighbours=4)
    rows = campaign(SimulatedWorld(problem=problem, seed=3, diverging=0.1))
    budget = budget_of(problem.budget_flops, rows)
    assert budget.reserved == 0
    cheapest = min(row.trial.predicted_cost for row in rows)
    assert 0 <= budget.remaining < 1.2 * cheapest
    for number in range(len(rows)):
        needed = rows_needed(problem, number)
        before = budget_of(problem.budget_flops, rows[:needed], rows[needed:number])
        waited = budget_of(problem.budget_flops, rows[:number])  # for diverged trials, which give some back
        remaining = max(before.remaining, waited.remaining)
        assert rows[number].trial.predicted_cost <= remaining * (1 + 1e-12)
    predicted = [(row.trial, row.runs[-1]) for row in rows if row.trial.predicted_mean and row.runs[-1].bpb]
    score = [(run.bpb - trial.predicted_mean) / trial.predicted_sd for trial, run in predicted]
    assert math.sqrt(np.mean(np.square(score))) < 2.5
    seeds: dict[tuple[Design, int], list[int]] = {}
    for row in rows:
        seeds.setdefault((row.trial.design, row.trial.scale.n_active), []).append(row.trial.seed)
    assert all(len(set(found)) == len(found) for found in seeds.values())  # a seed repeated would only repeat a run
    assert any("measure the noise" in row.trial.reason for row in rows if row.trial.predicted_mean)


@pytest.mark.parametrize("lie", ["noise", "sign"])
def test_the_top_is_never_starved(lie: str, problem_of_budget: ProblemOf) -> None:
    """Proxies that are nearly free and tell nothing, or the contrary of the truth."""
    ladder = Ladder(sizes=(100_000, 1_500_000), tokens=(2_000_000, 20_000_000))
    problem = problem_of_budget(tops=4, ladder=ladder, pool_size=8, neighbours=2, max_below_top=6, lag=0)
    world = SimulatedWorld(problem=problem, seed=4)
    rng = np.random.default_rng(0)
    law = {scale: world.log_bpb(problem.space.center(), scale) for scale in ladder.scales()}

    def change(trial: Trial, run: Run) -> Run:
        if trial.scale.n_active == ladder.top.n_active or run.bpb is None:
            return run
        scale = trial.scale.replace(tokens=run.tokens)
        effect = math.log(run.bpb) - law[scale]
        return run.replace(bpb=math.exp(law[scale] + (-effect if lie == "sign" else 0.02 * rng.standard_normal())))

    rows = campaign(world, change)
    informed = rows[len(initial_design(problem)) :]
    top_cost = problem.cost(problem.space.center(), ladder.top)
    below, spent, remaining = 0, 0.0, 0.0
    for row in informed:
        remaining = problem.budget_flops - sum(r.trial.predicted_cost for r in rows[: row.trial.number])
        if row.trial.scale == ladder.top:
            below, spent = 0, 0.0
            continue
        affordable = remaining > 1.3 * top_cost  # whichever design is best by then
        assert below < problem.max_below_top or not affordable
        assert spent < 1.3 * top_cost or not affordable
        below, spent = below + 1, spent + row.trial.predicted_cost
    assert sum(row.trial.scale == ladder.top for row in informed) >= 1


def test_the_last_affordable_top_run_goes_to_the_best_design(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=4, pool_size=24, neighbours=4, lag=0)
    world = SimulatedWorld(problem=problem, seed=5)
    rows = done(world, initial_design(problem))
    spent = sum(row.settled_flops for row in rows)
    top_cost = problem.cost(problem.space.center(), problem.ladder.top)
    budget = spent + 1.05 * top_cost
    share = problem.initial_share * problem.budget_flops / budget  # so that the initial design is the same
    tight = problem.replace(budget_flops=budget, initial_share=share)
    assert len(initial_design(tight)) == len(rows)
    while not isinstance(step := next_step(tight, rows), str) and step.scale != tight.ladder.top:
        rows.append(row_of(tight.trial(len(rows), step), world))
        assert budget_of(tight.budget_flops, rows).remaining > 0.6 * top_cost
    assert isinstance(step, Proposal)  # the rest was not nibbled away by cheaper runs
    assert step.reason == "the last run at the ladder's top that the budget pays for goes to the best design"


def test_it_goes_on_when_everything_diverges(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=2, ladder=LADDER, pool_size=12, neighbours=2)
    world = SimulatedWorld(problem=problem, diverging=1.0)
    rows = done(world, initial_design(problem))
    (proposal,) = suggest(problem, rows)
    assert "no run has given a loss yet" in proposal.reason
    assert proposal.design not in {row.trial.design for row in rows}
    assert decide(problem, rows) is None


def test_controls_are_compared_but_never_chosen(problem_of_budget: ProblemOf) -> None:
    problem = problem_of_budget(tops=4, ladder=LADDER, pool_size=16, neighbours=4)
    rows = campaign(SimulatedWorld(problem=problem, seed=6))
    controls = set(problem.space.controls())
    n_initial = len(initial_design(problem))
    assert sum(row.trial.design in controls for row in rows[:n_initial]) >= 2
    assert not any(row.trial.design in controls for row in rows[n_initial:])
    decision = decide(problem, rows)
    assert decision is not None
    assert decision.design not in controls


def random_at_top(world: SimulatedWorld, seed: int) -> Design:
    """Spend the budget on random designs at the ladder's top, and choose the best that was seen."""
    problem, spent, rows = world.problem, 0.0, []
    for design in problem.space.sample(200, 1000 + seed, accept=problem.is_feasible):
        cost = problem.cost(design, problem.ladder.top)
        if spent + cost > problem.budget_flops:
            break
        spent += cost
        proposal = Proposal(design=design, scale=problem.ladder.top, seed=0, reason="at random", predicted_cost=cost)
        rows += done(world, [proposal], first=len(rows))
    return min(rows, key=lambda row: row.runs[-1].bpb or math.inf).trial.design


def regret(world: SimulatedWorld, design: Design) -> float:
    """Normalised: 0 is the best, 1 the median of designs spread over the space, at the target."""
    problem = world.problem
    spread = problem.space.sample(300, 7, accept=problem.is_feasible)
    losses = np.array([world.log_bpb(other, problem.target_scale) for other in spread])
    return float((world.log_bpb(design, problem.target_scale) - losses.min()) / (np.median(losses) - losses.min()))


def compare(problem_of_budget: ProblemOf, seeds: range, **fields: object) -> tuple[float, float]:
    """Return the mean regrets of the search and of random search at equal cost."""
    ours, random = [], []
    for seed in seeds:
        problem = problem_of_budget(seed=seed, **fields)
        world = SimulatedWorld(problem=problem, seed=seed)
        decision = decide(problem, campaign(world))
        assert decision is not None
        ours.append(regret(world, decision.design))
        random.append(regret(world, random_at_top(world, seed)))
    return float(np.mean(ours)), float(np.mean(random))


def test_search_beats_random_at_equal_cost(problem_of_budget: ProblemOf) -> None:
    ours, random = compare(problem_of_budget, range(4), tops=4.0, ladder=LADDER, pool_size=48, neighbours=4)
    assert ours < 0.7 * random


@pytest.mark.parametrize("n_rows", [50, 200])
def test_the_work_of_a_suggestion_is_bounded(
    n_rows: int, problem_of_budget: ProblemOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fit of few steps on at most ``MAX_FIT_ROWS`` observations: what takes its time, counted."""
    problem = problem_of_budget(tops=1000.0)
    world = SimulatedWorld(problem=problem, seed=1)
    designs = problem.space.sample(n_rows, 7, accept=problem.is_feasible)
    scales = problem.ladder.scales()
    proposals = list(initial_design(problem))
    for index, design in enumerate(designs[len(proposals) :]):
        scale = scales[index % len(scales)]
        cost = problem.cost(design, scale)
        proposals.append(Proposal(design=design, scale=scale, seed=0, reason="a test", predicted_cost=cost))
    rows = done(world, proposals[:n_rows])
    minimize, covariance = surrogate_module.minimize, DesignScaleKernel.covariance
    sizes: list[int] = []
    steps: list[int] = []

    def sized(kernel: DesignScaleKernel, parameters: torch.Tensor, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        sizes.append(max(len(x1), len(x2)))
        return covariance(kernel, parameters, x1, x2)

    def counted(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(DesignScaleKernel, "covariance", sized)
            found = minimize(*arguments, **options)
        steps.append(found.nfev)
        return found

    monkeypatch.setattr(surrogate_module, "minimize", counted)
    suggest(problem, rows[:-3], rows[-3:])
    assert len(steps) <= 1 + len(FORMS)  # forms are compared now and then
    sizes.clear()
    steps.clear()
    suggest(problem, rows[:-3], rows[-3:])
    assert len(steps) == 1
    assert len(sizes) == steps[0] <= 2 * MAX_FIT_STEPS
    assert n_rows / 2 < max(sizes) <= MAX_FIT_ROWS


@pytest.mark.slow
def test_search_beats_random_clearly_over_more_worlds(problem_of_budget: ProblemOf) -> None:
    ours, random = compare(problem_of_budget, range(20, 23), tops=6.0)
    assert ours < 0.5 * random
