import numpy as np
import polars as pl
import pytest
from scipy.stats import multivariate_normal

from moe_search.scaling.calibration import GRID, PRIOR_MEDIAN, _log_likelihood, learn, widen
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.rolling import CutErrors
from moe_search.scaling.widening import POWER
from moe_search.scaling.worlds import draw_world

CHINCHILLA = get_law("chinchilla")


def cut(tau: float, seed: int, rows: int = 30) -> CutErrors:
    """Errors with a noise of 0.005, a law that is known to 0.002, and a form that is wrong by tau a decade."""
    rng = np.random.default_rng(seed)
    beyond = rng.uniform(0, 1.5, (3, rows))
    parts = 0.002 * rng.normal(size=(rows, 41))
    noise = 0.005 * rng.normal(size=40)
    error = tau * rng.normal(size=3) @ beyond**POWER + parts[:, 0] + 0.005 * rng.normal(size=rows)
    return CutErrors("some", error, parts[:, 1:], noise, 35.0, beyond)


def test_the_likelihood_is_that_of_the_full_covariance() -> None:
    errors = cut(0.02, seed=0, rows=12)
    variance, far = np.mean(errors.noise**2), errors.beyond**POWER
    base = np.cov(errors.deviations) + variance * np.eye(12)
    full = np.array([multivariate_normal(cov=base + tau**2 * far.T @ far).logpdf(errors.error) for tau in GRID[::20]])
    found = _log_likelihood(errors)[::20]
    np.testing.assert_allclose(np.diff(found), np.diff(full), rtol=1e-6, atol=1e-9)


def test_nothing_to_look_at_keeps_the_prior() -> None:
    nothing = learn((), freedom=10.0, levels={})
    assert np.median(nothing.tau) == pytest.approx(PRIOR_MEDIAN, rel=0.05)
    assert nothing.cuts == 0


@pytest.mark.parametrize("tau", [0.01, 0.05])
def test_the_size_of_a_wrong_forms_errors_is_found(tau: float) -> None:
    found = [np.median(learn([cut(tau, 10 * s + i) for i in range(4)], freedom=9, levels={}).tau) for s in range(8)]
    assert 0.4 * tau < np.median(found) < 1.6 * tau


def test_a_form_that_held_is_trusted_more_than_before() -> None:
    found = learn([cut(0.0, i) for i in range(4)], freedom=10.0, levels={})
    assert max(found.tau) < 0.004
    assert np.median(found.tau) < PRIOR_MEDIAN


def ladder(curvature: float) -> pl.DataFrame:
    return draw_world("chinchilla", seed=4, seed_sd=0.002, curvature=curvature).ladder(100, seed=0)


def test_a_wrong_form_is_widened_more_and_its_held_out_runs_are_judged_with_it() -> None:
    medians, widths = [], []
    for curvature in (0.0, 0.01):
        frame = ladder(curvature)
        holdout = f"train_flops > {frame['train_flops'].quantile(0.85)}"
        plain = fit(CHINCHILLA, frame, holdout=holdout, resamples=150, starts=32)
        widened = widen(plain, frame, holdout=holdout, starts=32, resamples=60)
        assert widened.widening is not None
        assert widened.widening.cuts >= 2
        assert widened.widening.freedom == plain.freedom
        assert widened.widening.seconds > 0
        assert plain.holdout is not None
        assert widened.holdout is not None
        assert widened.holdout.mape == plain.holdout.mape
        medians.append(np.median(widened.widening.tau))
        width = [
            sum(row["high_95"] - row["low_95"] for row in one.predictions) for one in (plain.holdout, widened.holdout)
        ]
        widths.append(width[1] / width[0])
    assert medians[1] > 2 * medians[0]
    assert widths[1] > widths[0]


def test_what_is_held_out_is_not_learnt_from() -> None:
    frame = ladder(0.0)
    level = frame["train_flops"].quantile(0.85)
    spoiled = frame.with_columns(loss=pl.when(pl.col("train_flops") > level).then(9.0).otherwise("loss"))
    widenings = []
    for table in (frame, spoiled):
        plain = fit(CHINCHILLA, table, holdout=f"train_flops > {level}", resamples=20, starts=32)
        widenings.append(widen(plain, table, holdout=f"train_flops > {level}", starts=16, resamples=30).widening)
    assert widenings[0] is not None
    assert widenings[1] is not None
    assert widenings[0].tau == widenings[1].tau


def test_a_fit_without_intervals_has_none_to_widen() -> None:
    plain = fit(CHINCHILLA, ladder(0.0), resamples=0, starts=16)
    assert widen(plain, ladder(0.0)) is plain
