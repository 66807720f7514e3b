import math

import numpy as np
import pytest

from moe_search.search.problem import Problem
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.truthfulness import TRUSTED, Agreement, Truth, _pairs, knobs, truthfulness, undecided
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design, Scale


class TurningWorld(SimulatedWorld):
    """Two knobs matter: the same activation ratio is best at all scales, the best granularity turns round."""

    def log_bpb(self, design: Design, scale: Scale) -> float:
        ladder = self.problem.ladder.scales()
        cheapest, top = (math.log(s.n_active * s.tokens) for s in (ladder[0], ladder[-1]))
        position = (math.log(scale.n_active * scale.tokens) - cheapest) / (top - cheapest)
        names = self.problem.space.feature_names
        x = dict(zip(names, self.problem.features(self.problem.realised(design, scale)[0]), strict=True))
        turning = 0.08 * (2 * position - 1) * x["granularity"]
        return math.log(1 + scale.n_active**-0.1) + turning + 0.08 * x["activation_ratio"]


def rows_at(world: SimulatedWorld, n: int, scales: list[Scale]) -> list[Row]:
    rows: list[Row] = []
    for scale in scales:
        for design in world.problem.space.sample(n, 31, accept=world.problem.is_feasible):
            proposal = Proposal(design=design, scale=scale, seed=0, reason="a test", predicted_cost=1.0)
            trial = world.problem.trial(len(rows), proposal)
            runs = tuple(world.evaluate(trial, lambda loss, tokens: None))
            rows.append(Row(trial=trial, state="finished", runs=runs))
    return rows


def test_pairs_differ_in_one_knob(problem: Problem) -> None:
    assert knobs(problem) == ["granularity", "activation_ratio", "n_shared_experts", "schedule", "mixture"]
    for knob in knobs(problem):
        pairs = _pairs(problem, knob)
        assert len(pairs) > 10
        for first, second in pairs:
            assert getattr(first, knob) != getattr(second, knob)
            assert second.replace(**{knob: getattr(first, knob)}) == first


def test_a_knob_whose_best_value_turns_with_scale_is_told_from_one_that_stays(problem: Problem) -> None:
    world = TurningWorld(problem=problem, noise=1e-3)
    scales = problem.ladder.scales()
    surrogate = Surrogate.fit(problem, rows_at(world, 24, [scales[0], scales[4], scales[-1]]))
    assert surrogate is not None
    truths = {one.knob: one for one in truthfulness(problem, surrogate)}
    assert set(truths) == set(knobs(problem))
    turning, staying = truths["granularity"], truths["activation_ratio"]
    assert len(turning.scales) == len(scales) - 1
    assert turning.scales[0].expected < 0.3
    assert staying.scales[0].expected > 0.9
    assert staying.decided_from == scales[0]
    assert turning.decided_from not in (scales[0], scales[1])
    assert turning.matters
    assert staying.matters
    assert truths["n_shared_experts"].effect < 0.2 * staying.effect
    for one in (*turning.scales, *staying.scales):
        assert abs(one.one_run - 0.5) <= abs(one.expected - 0.5) + 0.02  # noise pulls towards a coin


def test_it_is_as_sure_as_it_is_right(problem: Problem) -> None:
    """Over worlds whose optima move a lot, the stated share is the true one on average."""
    stated, true = [], []
    scales = problem.ladder.scales()
    for seed in range(4):
        world = SimulatedWorld(problem=problem, seed=seed, drift=0.5)
        surrogate = Surrogate.fit(problem, rows_at(world, 16, [scales[0], scales[-1]]))
        assert surrogate is not None
        for one in truthfulness(problem, surrogate, scales=scales[:1]):
            pairs = _pairs(problem, one.knob)
            low, top = (
                np.array([world.log_bpb(a, scale) - world.log_bpb(b, scale) for a, b in pairs])
                for scale in (scales[0], problem.target_scale)
            )
            stated.append(one.scales[0].expected)
            true.append(float(np.sum(np.abs(top) * (np.sign(low) == np.sign(top))) / np.sum(np.abs(top))))
    assert np.mean(stated) == pytest.approx(np.mean(true), abs=0.1)


def test_the_scale_that_decides_is_the_first_from_which_all_agree() -> None:
    scales = [Scale(n_active=n, tokens=10 * n) for n in (1, 2, 3)]

    def truth(*shares: float, effect: float = 0.01) -> Truth:
        at = tuple(Agreement(scale=s, expected=p, one_run=p) for s, p in zip(scales, shares, strict=True))
        return Truth(knob="n_experts", effect=effect, noise=0.005, scales=at)

    assert truth(0.9, 0.7, 0.9).decided_from == scales[2]
    assert truth(0.9, TRUSTED, 0.9).decided_from == scales[0]
    assert undecided([truth(0.9, 0.9, 0.7)])[0].startswith("n experts cannot be decided below the ladder's top")
    assert undecided([truth(0.9, 0.9, 0.9)]) == []
    assert undecided([truth(0.7, 0.7, 0.7, effect=0.001)]) == []  # what does not matter need not be decided
