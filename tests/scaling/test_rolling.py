import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.scaling.laws import get_law
from moe_search.scaling.rolling import FEWEST_ABOVE, FEWEST_BELOW, choose_cuts, roll
from moe_search.scaling.worlds import draw_world
from moe_search.spaces.errors import InvalidInputError


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e12, 1e24), min_size=1, max_size=60))
def test_cuts_leave_enough_on_both_sides_and_part_no_scale(flops: list[float]) -> None:
    values = np.array(flops)
    cuts = choose_cuts(pl.DataFrame({"train_flops": flops}))
    assert list(cuts) == sorted(set(cuts))
    for cut in cuts:
        assert (values <= cut).sum() >= FEWEST_BELOW
        assert (values > cut).sum() >= FEWEST_ABOVE


def test_cuts_lie_in_the_gaps_between_scales() -> None:
    scales = np.repeat([1e16, 1e17, 1e18, 1e19, 1e20], 10) * np.tile(np.linspace(0.8, 1.2, 10), 5)
    cuts = choose_cuts(pl.DataFrame({"train_flops": scales}))
    assert len(cuts) >= 2
    assert all(not ((cut / 1.5 < scales) & (scales < cut * 1.5)).any() for cut in cuts)


def test_tables_of_one_scale_or_without_compute_have_no_cut() -> None:
    assert choose_cuts(pl.DataFrame({"train_flops": [1e18] * 40})) == ()
    assert choose_cuts(pl.DataFrame({"loss": [2.0] * 40})) == ()


@pytest.fixture(scope="module")
def curved() -> pl.DataFrame:
    """Runs of a law whose losses bend upwards or downwards with compute."""
    return draw_world("chinchilla", seed=4, seed_sd=0.002, curvature=0.006).ladder(120, seed=0)


def test_scores_and_errors_say_the_same(curved: pl.DataFrame) -> None:
    rolled = roll([get_law("chinchilla")], curved, resamples=60, starts=32)
    assert len(rolled.scores) == len(rolled.errors) == len(choose_cuts(curved))
    for score, errors in zip(rolled.scores, rolled.errors, strict=True):
        assert score.fitted + score.held_out == curved.height
        assert len(errors.noise) == score.fitted
        assert errors.deviations.shape == (score.held_out, 60)
        assert 100 * np.mean(np.exp(-errors.error) - 1) == pytest.approx(score.bias)
        assert 0 <= score.coverage_80 <= score.coverage_95 <= 1
        assert errors.freedom == pytest.approx(score.fitted - 5, abs=0.6)
        assert errors.reach.shape == (3, score.held_out)
        assert errors.reach[0].max() >= score.decades
    assert rolled.of("chinchilla") == rolled.errors
    assert set(rolled.to_json()) == {"scores", "refused"}


def test_the_bias_of_a_wrong_form_keeps_its_sign_and_the_right_form_has_none(curved: pl.DataFrame) -> None:
    wrong = [score.bias for score in roll([get_law("chinchilla")], curved, resamples=2, starts=32).scores]
    assert len(set(np.sign(wrong))) == 1
    straight = draw_world("chinchilla", seed=4, seed_sd=0.002).ladder(120, seed=0)
    right = [score.bias for score in roll([get_law("chinchilla")], straight, resamples=2, starts=32).scores]
    assert np.abs(right).mean() < 0.5 * np.abs(wrong).mean()


def test_a_law_with_too_few_runs_below_a_cut_is_refused_there(curved: pl.DataFrame) -> None:
    flops = np.sort(curved["train_flops"].to_numpy())
    rolled = roll([get_law("farseer")], curved, cuts=[flops[6], flops[60]], resamples=2, starts=16)
    assert [(law, cut) for law, cut, _ in rolled.refused] == [("farseer", flops[6])]
    assert "too few" in rolled.refused[0][2]
    assert [score.train_flops for score in rolled.scores] == [flops[60]]
    with pytest.raises(InvalidInputError, match="no training compute to cut at"):
        roll([get_law("data_mixing")], curved.select("loss", pl.selectors.starts_with("weight/")), cuts=[1e18])


def test_a_law_that_predicts_no_other_size_has_no_record() -> None:
    rng = np.random.default_rng(0)
    sizes, tokens = np.repeat([1e8, 3e8, 1e9], 30), np.repeat([2e9, 6e9, 2e10], 30)
    frame = pl.DataFrame({"n_active": sizes, "tokens": tokens}).with_columns(
        learning_rate=pl.Series(10 ** rng.uniform(-4, -2, 90)),
        batch_tokens=pl.Series(10 ** rng.uniform(4, 6, 90)),
        loss=pl.Series(3 * np.exp(0.01 * rng.normal(size=90))),
    )
    rolled = roll([get_law("step_law_sweeps")], frame, resamples=2, starts=4)
    assert rolled.scores == ()
    assert "no level was fitted for the sweep" in rolled.refused[0][2]
