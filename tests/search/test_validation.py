import math
from collections.abc import Sequence

import numpy as np
import pytest

from moe_search.search import validation as validation_module
from moe_search.search.policy import Policy
from moe_search.search.problem import Problem
from moe_search.search.surrogate import FORMS, Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.validation import FEWEST_HELD_OUT, Validation, form_for, validate
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design, Scale


class LinearWorld(SimulatedWorld):
    """Log loss is linear in every feature, at all scales alike."""

    def log_bpb(self, design: Design, scale: Scale) -> float:
        features = self.problem.features(self.problem.realised(design, scale)[0])
        slopes = np.resize([0.15, -0.1, 0.05], len(features))
        return math.log(1 + scale.n_active**-0.1 + scale.tokens**-0.12) + float(slopes @ features)


def rows_at(world: SimulatedWorld, plan: Sequence[tuple[Scale, int]]) -> list[Row]:
    rows: list[Row] = []
    designs = world.problem.space.sample(200, 21, accept=world.problem.is_feasible)
    for scale, n in plan:
        for _ in range(n):
            proposal = Proposal(design=designs[len(rows)], scale=scale, seed=0, reason="a test", predicted_cost=1.0)
            trial = world.problem.trial(len(rows), proposal)
            runs = tuple(world.evaluate(trial, lambda loss, tokens: None))
            rows.append(Row(trial=trial, state="finished", runs=runs))
    return rows


def plan(problem: Problem, *, low: int = 24, middle: int = 8, top: int = 6) -> list[tuple[Scale, int]]:
    scales = problem.ladder.scales()
    return [(scales[0], low), (scales[4], middle), (scales[-1], top)]


def test_before_three_scales_nothing_is_compared(problem: Problem) -> None:
    world = SimulatedWorld(problem=problem)
    scales = problem.ladder.scales()
    for few in ([(scales[0], 20), (scales[-1], 6)], plan(problem, top=FEWEST_HELD_OUT - 1, low=2, middle=2)):
        found = validate(problem, rows_at(world, few))
        assert isinstance(found, str)
        assert "the law is a prior" in found


def test_the_law_is_kept_and_forecasts_the_level(problem: Problem) -> None:
    world = SimulatedWorld(problem=problem, seed=3)
    found = validate(problem, rows_at(world, plan(problem)))
    assert isinstance(found, Validation)
    assert (found.held_out, found.fitted) == (6, 32)
    assert found.chosen == "law_gp"
    by_form = {score.form: score for score in found.scores}
    assert set(by_form) >= set(FORMS)
    assert by_form["law_gp"].offset < 0.5 * by_form["gp"].offset
    assert by_form["law_gp"].error < by_form["log_linear"].error
    assert [score.error for score in found.scores] == sorted(score.error for score in found.scores)
    assert "the law with a Gaussian process" in found.sentence
    assert "of 6 trials at the highest scales" in found.sentence


def test_a_linear_truth_is_given_to_the_linear_form(problem: Problem) -> None:
    world = LinearWorld(problem=problem, noise=1e-4)
    found = validate(problem, rows_at(world, plan(problem, low=10, middle=4, top=9)))
    assert isinstance(found, Validation)
    assert found.chosen == "log_linear"
    assert found.sentence.startswith("log-linear regression is better than")


def test_errors_are_those_within_a_scale(problem: Problem) -> None:
    scales = [problem.ladder.scales()[-1]] * 4 + [problem.ladder.scales()[-2]]
    off = np.array([0.02, 0.04, 0.02, 0.04, 0.5])
    found = validation_module._judged({"law_gp": off, "gp": off / 2}, scales, fitted=9)
    by_form = {score.form: score for score in found.scores}
    assert by_form["law_gp"].error == pytest.approx(100 * math.sqrt(4 * 0.01**2 * 4 / 3 / 5))
    assert by_form["gp"].error == pytest.approx(by_form["law_gp"].error / 2)
    assert by_form["law_gp"].offset == pytest.approx(100 * math.sqrt((4 * 0.03**2 + 0.5**2) / 5))


def test_a_search_looks_now_and_then_and_only_at_leading_rows(problem: Problem) -> None:
    auto = problem.replace(policy=Policy(surrogate="auto"))
    rows = rows_at(LinearWorld(problem=problem, noise=1e-4), plan(problem, low=9, middle=4, top=9))
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    assert form_for(auto, shuffled[:15]) == "law_gp"
    assert form_for(auto, shuffled[:20]) == form_for(auto, shuffled[:16])
    assert form_for(problem.replace(policy=Policy(surrogate="gp")), shuffled) == "gp"
    far = problem.ladder.top.replace(n_active=10**9)
    assert form_for(auto.replace(target=far), shuffled) == "law_gp"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_model_with_a_joint_posterior(problem: Problem, form: str) -> None:
    surrogate = Surrogate.fit(problem, rows_at(SimulatedWorld(problem=problem), plan(problem)), form)  # type: ignore[arg-type]
    assert surrogate is not None
    designs = problem.space.sample(5, 3, accept=problem.is_feasible)
    inputs = surrogate.encode_realised(designs, list(problem.ladder.scales()[2:7]))
    covariance = surrogate.covariance_at(inputs, inputs)
    np.testing.assert_allclose(covariance.diagonal(), surrogate.variance_at(inputs), rtol=1e-6)
    assert np.linalg.eigvalsh(covariance.numpy()).min() > -1e-9
