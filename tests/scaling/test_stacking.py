from dataclasses import replace

import numpy as np
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.rolling import CutErrors, CutScore, Rolling
from moe_search.scaling.stacking import Stack, log_score, stack, stacking_weights
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError

COLUMNS = ("train_flops", "n_active", "tokens")


def rolled(bias: dict[str, float], cuts: int = 4, missing: str = "") -> Rolling:
    """Laws whose errors above each cut have a bias, under a noise of 0.005."""
    scores, errors = [], []
    for cut in range(cuts):
        noise = 0.005 * np.random.default_rng(cut).normal(size=20)
        for law, shift in bias.items():
            if law == missing and cut == 0:
                continue
            scores.append(CutScore(law, 10.0**cut, 40, 20, 1.0, 1.0, 0.0, 0.8, 0.95))
            errors.append(CutErrors(law, noise + shift, np.zeros((20, 10)), noise, 35.0, COLUMNS, np.zeros((3, 20))))
    return Rolling(tuple(scores), tuple(errors), ())


def test_laws_that_predict_alike_weigh_alike_and_a_wrong_one_weighs_little() -> None:
    np.testing.assert_allclose(stacking_weights(["a", "b"], rolled({"a": 0.0, "b": 0.0})), 0.5)
    weights = stacking_weights(["a", "b", "c"], rolled({"a": 0.0, "b": 0.0, "c": 0.05}))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == pytest.approx(weights[1])
    assert weights[2] == pytest.approx(1 / 19, rel=0.05)  # nothing but what it started with


def test_few_cuts_leave_weights_nearer_to_equal() -> None:
    one, four = (stacking_weights(["a", "b"], rolled({"a": 0.0, "b": 0.05}, cuts=cuts))[0] for cuts in (1, 4))
    assert 0.5 < one < four < 1


def test_only_cuts_of_all_laws_count() -> None:
    biases = {"a": 0.0, "b": 0.05}
    np.testing.assert_allclose(stacking_weights(["a", "b"], rolled(biases, cuts=1, missing="b")), 0.5)
    np.testing.assert_allclose(
        stacking_weights(["a", "b"], rolled(biases, cuts=2, missing="b"))[0],
        stacking_weights(["a", "b"], rolled(biases, cuts=1))[0],
        rtol=0.02,
    )


def test_the_log_score_prefers_an_honest_spread() -> None:
    error, noise = np.full(5, 0.02), 0.005 * np.ones(10)
    narrow = CutErrors("a", error, np.zeros((5, 50)), noise, 30.0, COLUMNS, np.zeros((3, 5)))
    spread = 0.02 * np.random.default_rng(0).normal(size=(5, 50))
    assert log_score(replace(narrow, deviations=spread)).mean() > log_score(narrow).mean()


def test_a_draw_belongs_to_one_law_for_all_rows() -> None:
    world = draw_world("chinchilla", seed=0, seed_sd=1e-5)
    ladder = world.ladder(60, seed=0)
    one = fit(world.law, ladder, resamples=200, starts=32)
    higher = replace(
        one,
        theta=one.theta + np.log(2) * np.array([1, 1, 1, 0, 0]),
        draws=one.draws + np.log(2) * np.array([1, 1, 1, 0, 0]),
    )
    frame = world.ladder(10, seed=1)
    prediction = Stack((one, higher), (0.75, 0.25)).predict(frame)
    ratio = prediction.draws / one.predict(frame).mean[:, None]
    np.testing.assert_allclose(np.where(ratio > 1.5, 2, 1), ratio, rtol=0.01)
    assert ((ratio > 1.5) == (ratio > 1.5)[0]).all()
    assert (ratio[0] > 1.5).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(prediction.mean, one.predict(frame).mean * 2**0.25)
    with pytest.raises(InvalidInputError, match="no fit to stack"):
        stack((), rolled({}))


def test_one_law_stacked_is_itself() -> None:
    ladder = draw_world("compute", seed=0).ladder(40, seed=0)
    alone = fit(get_law("compute"), ladder, resamples=50, starts=16)
    stacked = stack([alone], rolled({"compute": 0.0}))
    assert stacked.to_json() == {"compute": 1.0}
    np.testing.assert_array_equal(np.sort(stacked.predict(ladder).draws), np.sort(alone.predict(ladder).draws))
