import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student

from moe_search.scaling.extrapolation import Edge
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.predictor import LawPredictor
from moe_search.scaling.widening import Widening
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import resolve
from moe_search.spaces.rules import ShapeRules

LEVELS = {"train_flops": Edge(6e18, 0.0), "n_active": Edge(1e9, 0.0), "tokens": Edge(1e9, 0.0)}
WIDENING = Widening.unsigned(20.0, LEVELS, (0.01,), 3, 0.1)


def test_scaled_normal_draws_are_students() -> None:
    scale = replace(WIDENING, freedom=5.0).scale(40_000, seed=0)
    drawn = scale * np.random.default_rng(0).normal(size=40_000)
    for level in (0.9, 0.975):
        assert np.quantile(drawn, level) == pytest.approx(student.ppf(level, 5), rel=0.05)
    assert replace(WIDENING, freedom=1e6).scale(100, seed=0) == pytest.approx(1, abs=0.01)
    assert np.isfinite(replace(WIDENING, freedom=0.01).scale(1000, seed=0)).all()


def test_the_error_of_the_form_is_zero_inside_and_common_to_runs_of_one_scale() -> None:
    rows = pl.DataFrame({"n_active": [1e8, 1e9, 1e10, 1e10], "tokens": [1e9, 1e9, 1e9, 1e9]})
    error = WIDENING.discrepancy(rows, 2000, seed=0)
    assert error.shape == (4, 2000)
    assert (error[:2] == 0).all()
    np.testing.assert_array_equal(error[2], error[3])
    assert error[2].std() == pytest.approx(0.01 * np.sqrt(2), rel=0.05)  # one decade of size, and one of compute
    further = WIDENING.discrepancy(rows.with_columns(pl.col("n_active") * 10), 2000, seed=0)
    assert further[2].std() == pytest.approx(error[2].std() * 2**1.5, rel=1e-6)
    assert (WIDENING.discrepancy(pl.DataFrame({"loss": [2.0]}), 10, seed=0) == 0).all()


def test_an_error_that_kept_its_sign_moves_draws_and_correlates_columns() -> None:
    rows = pl.DataFrame({"n_active": [1e10, 1e9], "tokens": [1e9, 1e10]})
    root = ((0.01, 0.0, 0.0), (0.0, 0.01, 0.0), (0.0, 0.008, 0.006))
    signed = replace(WIDENING, expected=((0.0, -0.03, 0.02),), root=(root,))
    error = signed.discrepancy(rows, 4000, seed=0)  # a decade of compute, and one of size or of tokens
    np.testing.assert_allclose(error.mean(axis=1), [-0.03, 0.02], atol=3e-4)
    np.testing.assert_allclose(np.cov(error), [[2e-4, 1.8e-4], [1.8e-4, 2e-4]], rtol=0.1)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    ladder = draw_world("joint", seed=0, seed_sd=0.003).ladder(60, seed=0)
    return fit(get_law("joint"), ladder, resamples=400, starts=32)


def test_a_fit_is_widened_beyond_its_runs_alone(fitted: Fit) -> None:
    world = draw_world("joint", seed=0, seed_sd=0.003)
    levels = {"train_flops": Edge(fitted.observed.ranges["train_flops"][1], 0.0)}
    widened = replace(fitted, widening=Widening.unsigned(1e9, levels, (0.05,), 3, 0.1))
    for frame, ratio in ((world.ladder(20, seed=1), (0.9, 1.1)), (world.beyond(20, seed=1, train_flops=1e22), (3, 99))):
        before, after = (np.subtract(*one.predict(frame).interval(0.95)) for one in (fitted, widened))
        assert ratio[0] < np.median(after / before) < ratio[1]
        np.testing.assert_array_equal(fitted.predict(frame).mean, widened.predict(frame).mean)
    assert fit(fitted.law, world.ladder(60, seed=0), resamples=0, starts=8).predict(frame).draws.shape == (20, 1)


def test_a_fit_file_keeps_its_widening(fitted: Fit, tmp_path: Path) -> None:
    widened = replace(fitted, widening=WIDENING)
    path = tmp_path / "fit.json"
    path.write_text(widened.to_file_text())
    again = Fit.from_file(path)
    assert again.widening == WIDENING
    frame = draw_world("joint", seed=0).beyond(5, seed=0, train_flops=1e22)
    np.testing.assert_array_equal(again.predict(frame).draws, widened.predict(frame).draws)


def test_a_fit_file_from_before_errors_had_a_sign_and_edges_a_span_is_read(fitted: Fit, tmp_path: Path) -> None:
    content = json.loads(replace(fitted, widening=WIDENING).to_file_text())
    del content["widening"]["expected"], content["widening"]["root"]
    content["widening"]["edges"] = {name: edge.level for name, edge in LEVELS.items()}
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(content))
    assert Fit.from_file(path).widening == WIDENING


def test_designs_of_one_scale_are_compared_as_sharply_as_before(fitted: Fit) -> None:
    rules = ShapeRules(vocab_size=32_000)
    dense = Design(ffn="dense", mixture=Mixture(()))
    resolved = [
        resolve(one, Scale(n_active=10**10, tokens=10**12), rules)
        for one in (dense, Design(granularity=4.0, activation_ratio=0.125, mixture=Mixture(())))
    ]
    widened = replace(fitted, widening=Widening.unsigned(1e9, LEVELS, (0.02,), 3, 0.1))
    plain, wide = (np.log(LawPredictor(one).predict(resolved).draws) for one in (fitted, widened))
    assert wide[0].std() > 2 * plain[0].std()
    assert (wide[1] - wide[0]).std() < 1.3 * (plain[1] - plain[0]).std()
