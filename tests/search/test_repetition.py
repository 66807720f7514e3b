import math

import numpy as np
import pytest

from moe_search.search.problem import Problem
from moe_search.search.repetition import LASTING, fresh_equivalent
from moe_search.search.surrogate import Surrogate
from moe_search.search.trial import Proposal, Row
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.mixture import Mixture

UNIQUE = 30_000_000.0


class ScarceWorld(SimulatedWorld):
    """Only fresh tokens count, and those of ``code`` are the most useful, as long as there are any."""

    def log_bpb(self, design: Design, scale: Scale) -> float:
        weights = np.array([[design.mixture[domain] for domain in self.problem.space.domains]])
        unique = np.array([UNIQUE, np.inf, np.inf])
        total, (mixture,) = fresh_equivalent(weights, np.array([float(scale.tokens)]), unique)
        return math.log(0.6 + scale.n_active**-0.1 + 30 * total[0] ** -0.25) - 0.05 * math.sqrt(mixture[0])


def test_fresh_text_is_what_it_is() -> None:
    weights, tokens = np.array([[0.25, 0.75], [1.0, 0.0]]), np.array([100.0, 40.0])
    total, mixture = fresh_equivalent(weights, tokens, np.array([np.inf, np.inf]))
    np.testing.assert_allclose(total, tokens)
    np.testing.assert_allclose(mixture, weights)


def test_repeated_text_fades() -> None:
    total, mixture = fresh_equivalent(np.array([[0.5, 0.5]]), np.array([200.0]), np.array([10.0, np.inf]))
    faded = 10 * (1 + LASTING * (1 - math.exp(-9 / LASTING)))
    assert total[0] == pytest.approx(100 + faded)
    assert mixture[0, 0] == pytest.approx(faded / (100 + faded))
    assert faded < 100


def test_a_search_foresees_that_a_domain_runs_out(problem: Problem) -> None:
    """On the ladder all text is fresh; far beyond it the best domain would have to be read many times."""
    known = problem.replace(unique_tokens=(UNIQUE, 1e12, 1e12), full_scale_text=(UNIQUE, 1e12, 1e12))
    world = ScarceWorld(problem=problem, noise=1e-3)
    rows: list[Row] = []
    for design in problem.space.sample(48, 3, accept=problem.is_feasible):
        scale = problem.ladder.scales()[(0, 4, 8)[len(rows) % 3]]
        trial = problem.trial(len(rows), Proposal(design=design, scale=scale, seed=0, reason="-", predicted_cost=1.0))
        runs = tuple(world.evaluate(trial, lambda loss, tokens: None))
        rows.append(Row(trial=trial, state="finished", runs=runs))
    far = Scale(n_active=problem.ladder.top.n_active, tokens=1000 * problem.ladder.top.tokens)
    centre = problem.space.center()
    weights = [(x, (1 - x) / 2, (1 - x) / 2) for x in np.linspace(0.04, 0.9, 12)]
    designs = [
        centre.replace(mixture=Mixture.normalised(dict(zip(problem.space.domains, w, strict=True)))) for w in weights
    ]
    truth = np.array([world.log_bpb(design, far) for design in designs])
    regrets = []
    for one in (problem, known):
        surrogate = Surrogate.fit(one, rows)
        assert surrogate is not None
        mean, _ = surrogate.predict(designs, [far] * len(designs))
        regrets.append(float(truth[mean.argmin()] - truth.min()))
    assert regrets[1] < 0.3 * regrets[0]
