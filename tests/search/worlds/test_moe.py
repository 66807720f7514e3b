"""Drawn worlds: what must hold of every draw, and that proxies and target rank designs differently, but not wildly."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal
from moe_search.search.worlds.dimensions import dimensions
from moe_search.search.worlds.moe import DIVERGES_AFTER, MoEWorld
from moe_search.search.worlds.optimum import find_optimum
from moe_search.spaces.design import Design, Scale


@pytest.fixture(scope="module")
def far(problem: Problem) -> Problem:
    top = problem.ladder.top
    return problem.replace(target=Scale(n_active=10 * top.n_active, tokens=10 * top.tokens))


@pytest.fixture(scope="module")
def designs(far: Problem) -> list[Design]:
    return far.space.sample(128, 3, accept=far.is_feasible)


@pytest.fixture(scope="module")
def worlds(far: Problem) -> list[MoEWorld]:
    return [MoEWorld(problem=far, seed=seed) for seed in range(6)]


def test_a_world_is_its_seed(far: Problem, designs: list[Design]) -> None:
    one, same, other = (MoEWorld(problem=far, seed=seed) for seed in (1, 1, 2))
    again = MoEWorld.model_validate_json(one.model_dump_json())
    top = far.ladder.top
    for twin in (same, again):
        assert np.array_equal(one.observed(designs, top, 0), twin.observed(designs, top, 0))
    assert not np.array_equal(one.log_bpbs(designs, top), other.log_bpbs(designs, top))
    assert one.log_bpb(designs[5], top) == one.log_bpbs(designs, top)[5]


def test_more_parameters_and_tokens_help(far: Problem, worlds: list[MoEWorld], designs: list[Design]) -> None:
    sizes, tokens = far.ladder.sizes, far.ladder.tokens
    for world in worlds:
        by_size = [np.median(world.log_bpbs(designs, Scale(n_active=n, tokens=tokens[-1]))) for n in sizes]
        by_tokens = [np.median(world.log_bpbs(designs, Scale(n_active=sizes[0], tokens=d))) for d in tokens]
        assert by_size == sorted(by_size, reverse=True)
        assert by_tokens == sorted(by_tokens, reverse=True)
        assert 0.5 < math.exp(by_size[-1]) < 6


def test_rankings_change_with_scale(far: Problem, worlds: list[MoEWorld], designs: list[Design]) -> None:
    """Cheap proxies are worth something and lie; the ladder's top lies less."""
    cheap, top = far.ladder.scales()[0], far.ladder.top
    found = [
        [
            spearmanr(world.log_bpbs(designs, scale), world.log_bpbs(designs, far.target_scale)).statistic
            for scale in (cheap, top)
        ]
        for world in worlds
    ]
    from_cheap, from_top = np.array(found).T
    assert 0.2 < from_cheap.mean() < 0.9
    assert from_cheap.mean() < from_top.mean() < 0.99


def test_scarce_text_bites_only_in_long_runs(far: Problem, worlds: list[MoEWorld]) -> None:
    world = worlds[0]
    scarce = int(world.backbone.unique.argmin())
    weights = np.full(3, 0.02)
    weights[scarce] = 0.96
    centre = far.space.center()
    greedy = centre.replace(mixture=dict(zip(far.space.domains, weights.tolist(), strict=True)))
    size, plenty = far.ladder.sizes[0], world.backbone.unique[scarce]
    gap = [
        world.log_bpb(greedy, Scale(n_active=size, tokens=round(times * plenty)))
        - world.log_bpb(centre, Scale(n_active=size, tokens=round(times * plenty)))
        for times in (0.5, 1, 30, 300)
    ]
    assert abs(gap[1] - gap[0]) < 0.01  # nothing is repeated yet
    assert gap[3] > gap[2] > gap[1] + 0.005


def test_failures_are_regions_of_the_design(far: Problem, designs: list[Design]) -> None:
    world = MoEWorld(problem=far, seed=3, diverging=0.25)
    bad = world.diverging_ones(designs, far.ladder.top)
    assert 0.1 < bad.mean() < 0.4
    index = dimensions(far, designs, [far.ladder.top] * len(designs)).features @ world.failures.direction
    assert index[bad].min() > index[~bad].max()
    assert (world.diverging_ones(designs, far.target_scale) >= bad).all()  # larger models are no stabler
    assert MoEWorld(problem=far, seed=3, diverging=1.0).diverging_ones(designs, far.ladder.scales()[0]).all()
    assert not MoEWorld(problem=far, seed=3, diverging=0.0).diverging_ones(designs, far.target_scale).any()


def test_collapse_takes_the_experts_and_long_runs_mend_it(far: Problem, worlds: list[MoEWorld]) -> None:
    base = far.space.center()
    many = base.replace(granularity=8.0, activation_ratio=0.06)
    for world in worlds:
        short, long = (
            world.failures.collapse(dimensions(far, [many], [Scale(n_active=300_000, tokens=t)]))[0]
            for t in (1_000_000, 100_000_000)
        )
        assert 0 <= long < short <= 1
    at_random = base.replace(routing=base.routing.replace(router="random", balancing="none"))
    assert worlds[0].failures.collapse(dimensions(far, [at_random], [far.ladder.top]))[0] == 1
    assert worlds[0].log_bpb(at_random, far.ladder.top) > worlds[0].log_bpb(base, far.ladder.top)


def test_runs_of_a_trial(far: Problem) -> None:
    world = MoEWorld(problem=far, seed=1, diverging=0.0)
    centre, top = far.space.center(), far.ladder.top
    proposal = Proposal(design=centre, scale=top, seed=0, reason="a test", predicted_cost=far.cost(centre, top))
    trial = far.trial(0, proposal)
    runs = world.evaluate(trial, lambda loss, tokens: None)
    assert [run.tokens for run in runs] == list(trial.horizons)
    assert sum(run.paid_flops for run in runs) == pytest.approx(trial.predicted_cost)
    truth = [world.log_bpb(centre, top.replace(tokens=run.tokens)) for run in runs]
    seen = [math.log(run.bpb or math.nan) for run in runs]
    assert np.abs(np.subtract(seen, truth)).max() < 6 * world.noise_sd(far.ladder.scales()[0])
    assert all(run.wall_seconds and run.wall_seconds > 0 for run in runs)

    (failed,) = MoEWorld(problem=far, seed=1, diverging=1.0).evaluate(trial, lambda loss, tokens: None)
    assert failed.status == "diverged"
    assert failed.bpb is None
    last = runs[-1].train_flops
    assert failed.paid_flops == pytest.approx(DIVERGES_AFTER * last)


def test_noise_has_its_stated_size_and_falls_with_compute(far: Problem, designs: list[Design]) -> None:
    world = MoEWorld(problem=far, seed=2)
    cheap, top = far.ladder.scales()[0], far.ladder.top
    assert world.noise_sd(cheap) > world.noise_sd(top)
    noise = [world.observed(designs, top, seed) - world.log_bpbs(designs, top) for seed in range(4)]
    assert np.std(noise) == pytest.approx(world.noise_sd(top), rel=0.15)
    silent = MoEWorld(problem=far, seed=2, noise=0.0)
    assert np.array_equal(silent.observed(designs, top, 0), silent.log_bpbs(designs, top))


def test_no_design_beats_the_optimum(worlds: list[MoEWorld], designs: list[Design]) -> None:
    for world in worlds[:2]:
        optimum = find_optimum(world, 128)
        regrets = optimum.regrets(world, designs)
        assert regrets.min() > 0
        assert np.median(regrets) == pytest.approx(1, abs=0.25)
        assert optimum.regret(world, optimum.design) == pytest.approx(0, abs=1e-9)


def test_a_choice_that_diverges_is_the_worst(far: Problem, designs: list[Design]) -> None:
    world = MoEWorld(problem=far, seed=3, diverging=0.25)
    optimum = find_optimum(world, 128)
    bad = world.diverging_ones(designs, far.target_scale)
    regrets = optimum.regrets(world, designs)
    assert np.unique(regrets[bad]).size == 1
    assert regrets[bad][0] >= np.quantile(regrets[~bad], 0.95)
    assert not world.diverging_ones([optimum.design], far.target_scale).any()
