from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from moe_search.scaling.calibration import LASTING, PRIOR_MEDIAN, PRIOR_SPREAD, learn, widen
from moe_search.scaling.extrapolation import Edge
from moe_search.scaling.fit import fit
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.rolling import CutErrors
from moe_search.scaling.worlds import draw_world

CHINCHILLA = get_law("chinchilla")
LEVELS = {"train_flops": Edge(1e18, 2.0), "n_active": Edge(1e8, 1.0), "tokens": Edge(1e9, 1.0)}
WRONG = np.array([0.02, -0.01, 0.03])


def cut(b: Array, seed: int, rows: int = 30) -> CutErrors:
    """Errors with a noise of 0.005, a law that is known to 0.002, and a form that is wrong by b (3,) a reach of 1."""
    rng = np.random.default_rng(seed)
    reach = rng.uniform(0, 1.5, (3, rows)) ** 1.5
    parts = 0.002 * rng.normal(size=(rows, 41))
    noise = 0.005 * rng.normal(size=40)
    error = b @ reach + parts[:, 0] + 0.005 * rng.normal(size=rows)
    return CutErrors("some", error, parts[:, 1:], noise, 35.0, tuple(LEVELS), reach)


def drifting(tau: float, seed: int, cuts: int = 4) -> list[CutErrors]:
    rng = np.random.default_rng((seed, 1))
    b, found = rng.normal(size=3), []
    for i in range(cuts):
        found.append(cut(tau * b, 10 * seed + i))
        b = LASTING * b + np.sqrt(1 - LASTING**2) * rng.normal(size=3)
    return found


def test_the_record_is_weighed_as_the_full_covariance_weighs_it() -> None:
    """At one tau, against the conditional normal of b given all errors of two cuts at once."""
    tau, first, second = 0.02, cut(WRONG, seed=0, rows=9), cut(-WRONG, seed=1, rows=7)
    far = [one.reach.T for one in (first, second)]
    noise = [np.cov(one.deviations) + np.mean(one.noise**2) * np.eye(len(one.error)) for one in (first, second)]
    drift = tau**2 * np.kron(LASTING ** np.abs(np.subtract.outer(range(3), range(3))), np.eye(3))
    design = block_diag(*far)  # of b at both cuts; the third b is that of the predictions
    full = design @ drift[:6, :6] @ design.T + block_diag(*noise)
    gain = drift[6:, :6] @ design.T @ np.linalg.inv(full)
    found = learn([first, second], freedom=9.0, levels=LEVELS, grid=np.array([tau, 1.01 * tau]))
    chosen = found.tau.index(tau)
    np.testing.assert_allclose(found.expected[chosen], gain @ np.r_[first.error, second.error], rtol=1e-6)
    root = np.array(found.root[chosen])
    np.testing.assert_allclose(root @ root.T, drift[6:, 6:] - gain @ design @ drift[:6, 6:], rtol=1e-5, atol=1e-12)


def test_tau_is_as_probable_as_the_density_of_the_errors() -> None:
    one = cut(WRONG, seed=0, rows=12)
    far, grid = one.reach.T, np.array([0.001, 0.003, 0.01, 0.03, 0.1])
    noise = np.cov(one.deviations) + np.mean(one.noise**2) * np.eye(12)
    density = [multivariate_normal(cov=noise + tau**2 * far @ far.T).logpdf(one.error) for tau in grid]
    log_prior = -0.5 * (np.log(grid / PRIOR_MEDIAN) / PRIOR_SPREAD) ** 2
    expected = np.exp(density + log_prior - np.max(density + log_prior))
    found = learn([one], freedom=9.0, levels=LEVELS, grid=grid, values=20_000).tau
    shares = [found.count(float(tau)) / len(found) for tau in grid]
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-3)


def test_nothing_to_look_at_keeps_the_prior() -> None:
    nothing = learn((), freedom=10.0, levels=LEVELS)
    assert np.median(nothing.tau) == pytest.approx(PRIOR_MEDIAN, rel=0.1)
    assert nothing.cuts == 0
    assert np.abs(nothing.expected).max() == 0
    np.testing.assert_allclose([np.diag(root) for root in nothing.root], np.outer(nothing.tau, np.ones(3)), rtol=1e-6)


@pytest.mark.parametrize("tau", [0.01, 0.05])
def test_the_size_of_a_wrong_forms_errors_is_found(tau: float) -> None:
    found = [np.median(learn(drifting(tau, s), freedom=9, levels=LEVELS).tau) for s in range(8)]
    assert 0.4 * tau < np.median(found) < 1.6 * tau


def test_a_form_that_held_is_trusted_more_than_before() -> None:
    found = learn([cut(np.zeros(3), i) for i in range(4)], freedom=10.0, levels=LEVELS)
    assert max(found.tau) < 0.004
    assert np.median(found.tau) < PRIOR_MEDIAN


def test_a_law_that_fell_short_above_every_cut_is_expected_to_go_on() -> None:
    """And the later a cut, the more it tells."""
    rng = np.random.default_rng(0)
    cuts = [cut(np.zeros(3), i) for i in range(4)]
    short = [replace(one, error=0.02 * one.reach[0] + 0.005 * rng.normal(size=30)) for one in cuts]
    by_record = {
        name: np.mean(learn(errors, freedom=30.0, levels=LEVELS).expected, axis=0)[0]
        for name, errors in (("always", short), ("early", [*short[:2], *cuts[2:]]), ("late", [*cuts[:2], *short[2:]]))
    }
    assert LASTING * 0.02 * 0.9 < by_record["always"] < 0.02
    assert abs(by_record["early"]) < 0.002
    assert 0.5 * by_record["always"] < by_record["late"] < 1.1 * by_record["always"]


def test_columns_that_the_whole_table_lacks_tell_nothing() -> None:
    one = cut(WRONG, seed=0)
    fewer = learn([one], freedom=30.0, levels={"train_flops": Edge(1e18, 2.0)})
    other = learn([replace(one, columns=("train_flops",), reach=one.reach[:1])], freedom=30.0, levels=LEVELS)
    assert np.shape(fewer.expected) == (len(fewer.tau), 1)
    np.testing.assert_allclose(np.array(other.expected)[:, 0], np.array(fewer.expected)[:, 0])
    assert np.abs(np.array(other.expected)[:, 1:]).max() == 0
    assert learn([one], freedom=30.0, levels={}).expected[0] == ()


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
