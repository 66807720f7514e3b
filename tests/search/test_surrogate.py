import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from botorch.models.model import Model

from moe_search.search.law_mean import PRIOR_ROOT, fit_law_mean
from moe_search.search.observations import observe, repeat_variance
from moe_search.search.problem import Problem
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design, Scale


def rows_of(world: SimulatedWorld, plan: list[tuple[Design, Scale, int]]) -> list[Row]:
    rows = []
    for design, scale, seed in plan:
        proposal = Proposal(design=design, scale=scale, seed=seed, reason="a test", predicted_cost=1e12)
        trial = world.problem.trial(len(rows), proposal)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        rows.append(Row(trial=trial, state="finished", runs=tuple(runs)))
    return rows


def spread_rows(world: SimulatedWorld, *, n_low: int = 30, n_middle: int = 5, n_top: int = 3) -> list[Row]:
    """Different designs at three scales, three of them at two, and two repeats."""
    problem = world.problem
    scales = problem.ladder.scales()
    designs = problem.space.sample(n_low + n_middle + n_top, 11 + world.seed, accept=problem.is_feasible)
    plan = [(design, scales[0], 0) for design in designs[:n_low]]
    plan += [(design, scales[0], 1) for design in designs[:2]]
    plan += [(design, scales[-1], 0) for design in designs[:3]]
    plan += [(design, scales[5], 0) for design in designs[n_low : n_low + n_middle]]
    plan += [(design, scales[-1], 0) for design in designs[n_low + n_middle :]]
    return rows_of(world, plan)


@pytest.fixture(scope="module")
def fitted(world: SimulatedWorld) -> Surrogate:
    surrogate = Surrogate.fit(world.problem, spread_rows(world))
    assert surrogate is not None
    return surrogate


def truth(world: SimulatedWorld, designs: list[Design], scale: Scale) -> np.ndarray:
    return np.array([world.log_bpb(design, scale) for design in designs])


@pytest.mark.parametrize("seed", range(4))
def test_it_ranks_designs_at_a_scale_where_few_were_run(problem: Problem, seed: int) -> None:
    world = SimulatedWorld(problem=problem, seed=seed)
    surrogate = Surrogate.fit(problem, spread_rows(world))
    assert surrogate is not None
    designs = problem.space.sample(60, 99, accept=problem.is_feasible)
    mean, _ = surrogate.predict(designs, [problem.ladder.top] * len(designs))
    true = truth(world, designs, problem.ladder.top)
    assert np.corrcoef(mean, true)[0, 1] > 0.8
    # Of clearly different designs (two standard deviations of the space apart) the better one is told.
    pairs = [(i, j) for i in range(60) for j in range(60) if true[i] < true[j] - 2 * world.spread]
    assert np.mean([mean[i] < mean[j] for i, j in pairs]) > 0.95


def test_intervals_cover_and_differences_too(problem: Problem) -> None:
    scores, differences = [], []
    for seed in range(6):
        world = SimulatedWorld(problem=problem, seed=seed)
        surrogate = Surrogate.fit(problem, spread_rows(world))
        assert surrogate is not None
        designs = problem.space.sample(40, 98, accept=problem.is_feasible)
        mean, covariance = surrogate.predict(designs, [problem.ladder.top] * len(designs))
        error = truth(world, designs, problem.ladder.top) - mean
        scores.append(error / np.sqrt(np.diag(covariance)))
        spread = np.diag(covariance)[1:] + covariance[0, 0] - 2 * covariance[0, 1:]
        differences.append((error[1:] - error[0]) / np.sqrt(spread))
    for values in (np.concatenate(scores), np.concatenate(differences)):
        assert 0.80 < np.mean(np.abs(values) < 1.96) <= 1.0  # nominal 0.95; six worlds are few independent cases
        assert 0.5 < np.sqrt(np.mean(values**2)) < 1.6


def test_it_extrapolates_by_the_law_and_admits_less_certainty(fitted: Surrogate, world: SimulatedWorld) -> None:
    problem = world.problem
    design = problem.space.center()
    top = problem.ladder.top
    scales = [top, *(Scale(n_active=top.n_active * k, tokens=top.tokens * k) for k in (3, 10, 30))]
    mean, covariance = fitted.predict([design] * len(scales), scales)
    true = np.array([world.log_bpb(design, scale) for scale in scales])
    sd = np.sqrt(np.diag(covariance))
    assert (np.diff(mean) < -0.02).all()  # not flat
    assert (np.diff(sd) > 0).all()
    assert (np.abs(mean - true) < 3 * sd + 0.01).all()


def test_the_joint_posterior_is_botorchs(fitted: Surrogate, world: SimulatedWorld) -> None:
    assert isinstance(fitted, Model)
    designs = world.problem.space.sample(5, 3, accept=world.problem.is_feasible)
    scales = list(world.problem.ladder.scales()[2:7])
    inputs = fitted.encode_realised(designs, scales)
    mean, covariance = fitted.predict(designs, scales)
    posterior = fitted.posterior(inputs)
    np.testing.assert_allclose(posterior.mean[:, 0].detach(), mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(posterior.distribution.covariance_matrix.detach(), covariance, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(np.diag(covariance), fitted.variance_at(inputs), rtol=1e-6)
    draws = fitted.posterior_draws(designs, scales, 4000, seed=1)
    assert draws.shape == (4000, 5)
    assert np.array_equal(draws, fitted.posterior_draws(designs, scales, 4000, seed=1))
    np.testing.assert_allclose(np.log(draws).mean(axis=0), mean, atol=4 * np.sqrt(np.diag(covariance).max() / 4000))
    np.testing.assert_allclose(np.cov(np.log(draws).T), covariance, atol=0.1 * np.diag(covariance).max())


def test_believing_keeps_means_and_shrinks_variances(fitted: Surrogate, world: SimulatedWorld) -> None:
    designs = world.problem.space.sample(6, 4, accept=world.problem.is_feasible)
    at_top = fitted.encode_realised(designs, [world.problem.ladder.top] * 6)
    believer = fitted.believing(at_top[:1], [77])
    torch.testing.assert_close(believer.mean_at(at_top), fitted.mean_at(at_top), rtol=0, atol=1e-9)
    assert (believer.variance_at(at_top) <= fitted.variance_at(at_top) + 1e-12).all()
    assert believer.variance_at(at_top)[0] < 0.5 * fitted.variance_at(at_top)[0]
    assert len(fitted.train_targets) == len(believer.train_targets) - 1


def test_noise_is_learned_from_repeats(problem: Problem) -> None:
    designs = problem.space.sample(12, 5, accept=problem.is_feasible)
    scale = problem.ladder.scales()[0]
    plan = [(design, scale, seed) for design in designs for seed in (0, 1)]
    for noise in (1e-3, 1e-2):
        world = SimulatedWorld(problem=problem, noise=noise)
        rows = rows_of(world, plan)
        observations = observe(problem, rows)
        assert observations is not None
        variance, freedom = repeat_variance(observations)
        assert freedom == 12
        assert math.sqrt(variance) == pytest.approx(noise, rel=0.6)
        surrogate = Surrogate.fit(problem, rows)
        assert surrogate is not None
        assert math.sqrt(surrogate.noise_variance) == pytest.approx(noise, rel=0.6)


def test_diverged_and_absurd_runs_do_not_spoil_the_rest(world: SimulatedWorld) -> None:
    problem = world.problem
    rows = spread_rows(world)
    spoiled = []
    for index, row in enumerate(rows):
        last = row.runs[-1]
        if index % 9 == 4:
            row = row.replace(runs=(last.replace(status="diverged", bpb=None, loss=None, message="nan"),))  # noqa: PLW2901
        elif index % 9 == 8:
            row = row.replace(runs=(last.replace(bpb=last.bpb * 3),))  # noqa: PLW2901
        spoiled.append(row)
    designs = problem.space.sample(60, 97, accept=problem.is_feasible)
    true = truth(world, designs, problem.ladder.top)
    surrogate = Surrogate.fit(problem, spoiled)
    assert surrogate is not None
    mean, _ = surrogate.predict(designs, [problem.ladder.top] * len(designs))
    assert np.abs(np.median(mean - true)) < 0.03
    assert np.corrcoef(mean, true)[0, 1] > 0.3


def test_a_region_that_diverges_is_avoided(world: SimulatedWorld) -> None:
    problem = world.problem
    rows = []
    for row in spread_rows(world):
        if row.trial.design.granularity > 4:
            last = row.runs[-1].replace(status="diverged", bpb=None, loss=None, message="nan")
            rows.append(row.replace(runs=(last,)))
        else:
            rows.append(row)
    surrogate = Surrogate.fit(problem, rows)
    assert surrogate is not None
    designs = problem.space.sample(80, 96, accept=problem.is_feasible)
    mean, _ = surrogate.predict(designs, [problem.ladder.top] * len(designs))
    excess = mean - truth(world, designs, problem.ladder.top)
    inside = np.array([design.granularity > 5 for design in designs])
    outside = np.array([design.granularity < 3 for design in designs])
    assert np.mean(excess[inside]) > np.mean(excess[outside]) + 0.4 * world.spread


def test_nothing_is_known_before_a_loss(problem: Problem, world: SimulatedWorld) -> None:
    assert Surrogate.fit(problem, []) is None
    diverging = world.replace(diverging=1.0)
    rows = rows_of(diverging, [(problem.space.center(), problem.ladder.scales()[0], 0)])
    assert Surrogate.fit(problem, rows) is None


def test_one_trial_is_enough_to_start(problem_of_budget: Callable[..., Problem], world: SimulatedWorld) -> None:
    rows = rows_of(world, [(world.problem.space.center(), world.problem.ladder.scales()[0], 0)])
    surrogate = Surrogate.fit(world.problem, rows)
    assert surrogate is not None
    mean, covariance = surrogate.predict([world.problem.space.center()], [world.problem.ladder.top])
    assert math.exp(mean[0]) < rows[0].runs[0].bpb
    assert 0.01 < math.sqrt(covariance[0, 0]) < 1.0


def test_the_law_is_recovered_from_scales_alone() -> None:
    rng = np.random.default_rng(0)
    log_n, log_d = rng.uniform(np.log(1e5), np.log(1e7), 60), rng.uniform(np.log(1e6), np.log(1e8), 60)

    def law(log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
        return np.log(0.9 + 0.4 * np.exp(-0.3 * (log_n - 14)) + 0.3 * np.exp(-0.4 * (log_d - 16)))

    observed = law(log_n, log_d) + 0.003 * rng.standard_normal(60)
    observed[::10] += 1.0  # a tenth is absurd
    fitted = fit_law_mean(log_n, log_d, observed)
    np.testing.assert_allclose(fitted.value(log_n, log_d), law(log_n, log_d), atol=0.01)
    beyond_n, beyond_d = np.array([np.log(1e8)]), np.array([np.log(1e9)])
    assert fitted.value(beyond_n, beyond_d) == pytest.approx(law(beyond_n, beyond_d), abs=0.05)
    mean, root = fitted.linearised(log_n, log_d)
    step = 1e-6 * np.eye(5)
    numeric = [
        (fitted._replace(theta=fitted.theta + h).value(log_n, log_d) - fitted.value(log_n, log_d)) / 1e-6 for h in step
    ]
    np.testing.assert_allclose(root @ np.linalg.inv(PRIOR_ROOT), np.column_stack(numeric), atol=1e-5)
    np.testing.assert_allclose(
        mean, fitted.value(log_n, log_d) + np.column_stack(numeric) @ (fitted.prior - fitted.theta), atol=1e-4
    )
