from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.censoring import Censored, parse_censored
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}
NOISE = 0.02


def runs(seed: int, count: int = 80) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Tiny dense runs, what the law says of them, and how much better than that they came out."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(5.5, 7.5, count), "tokens": 10 ** rng.uniform(6.5, 9, count)})
    mean = LAW.predict(TRUTH, LAW.variables(frame))
    error = NOISE * rng.normal(size=count)
    return frame, mean, error


def stopped_when_good(seed: int) -> pl.DataFrame:
    """Half of the runs that come out better than the law are stopped a little before their end."""
    frame, mean, error = runs(seed)
    stopped = (error < 0) & (np.random.default_rng(seed).random(len(error)) < 0.7)
    loss = mean * np.exp(error + np.where(stopped, 0.2 * NOISE, 0.0))
    return frame.with_columns(loss=pl.Series(loss), status=pl.Series(np.where(stopped, "truncated", "finished")))


def stopped_above_a_limit(seed: int) -> pl.DataFrame:
    """Runs that would end 1 % above the law are given up there."""
    frame, mean, error = runs(seed)
    stopped = error > 0.01
    loss = mean * np.exp(np.minimum(error, 0.01))
    return frame.with_columns(loss=pl.Series(loss), status=pl.Series(np.where(stopped, "diverged", "finished")))


def bias(frame: pl.DataFrame, censored: Sequence[Censored]) -> float:
    """Mean log error of the law's predictions for the table's own runs, of loss without noise."""
    found = fit(LAW, frame, censored=censored, resamples=0, starts=12)
    truth = LAW.predict(TRUTH, LAW.variables(frame))
    return float(np.mean(np.log(found.predict(frame).mean / truth)))


def test_runs_stopped_because_they_were_good_bias_a_fit_that_leaves_them_out() -> None:
    tables = [stopped_when_good(seed) for seed in range(6)]
    without, bounded = (np.mean([bias(table, kinds) for table in tables]) for kinds in ((), ("truncated",)))
    assert without > 0.004
    assert abs(bounded) < 0.5 * without


def test_runs_given_up_above_a_limit_are_bounds_from_below() -> None:
    tables = [stopped_above_a_limit(seed) for seed in range(6)]
    without, bounded = (np.mean([bias(table, kinds) for table in tables]) for kinds in ((), ("diverged",)))
    assert without < -0.004
    assert abs(bounded) < 0.5 * abs(without)


def test_bounds_that_the_law_keeps_change_nothing_but_the_note() -> None:
    table = stopped_when_good(0)
    finished = table.filter(pl.col("status") == "finished")
    far = table.filter(pl.col("status") != "finished").with_columns(pl.col("loss") * 3)
    alone = fit(LAW, finished, resamples=20, starts=12)
    bounded = fit(LAW, pl.concat([finished, far]), resamples=20, starts=12, seed=0)
    assert bounded.objective == pytest.approx(alone.objective, rel=1e-9)
    np.testing.assert_allclose(bounded.theta, alone.theta, atol=1e-5)
    np.testing.assert_allclose(bounded.noise, alone.noise, atol=1e-6)
    assert (bounded.n_runs, bounded.n_bounds) == (finished.height, far.height)
    assert alone.notes == ()
    assert bounded.notes == (f"{far.height} truncated runs are upper bounds of the loss; 0 of them move the fit",)
    assert bounded.to_json()["n_bounds"] == far.height


def test_diverged_runs_are_left_out_unless_asked_for_and_bounds_are_never_held_out() -> None:
    table = stopped_above_a_limit(1)
    gone = int((table["status"] == "diverged").sum())
    found = fit(LAW, table, resamples=0, starts=12)
    assert found.n_bounds == 0
    assert found.warnings == (f"left out, because they did not finish: {gone} of 80 runs",)
    held = fit(LAW, table, censored=("diverged",), holdout="n_active > 1e7", resamples=0, starts=12)
    large = table.filter(pl.col("n_active") > 1e7)
    assert held.holdout is not None
    assert len(held.holdout.predictions) == (large["status"] == "finished").sum()
    assert held.n_bounds == gone - (large["status"] == "diverged").sum()


def test_a_status_that_bounds_nothing_is_refused() -> None:
    assert parse_censored("truncated, diverged") == ("truncated", "diverged")
    assert parse_censored("none") == ()
    with pytest.raises(InvalidInputError, match="'oom' bounds no loss; allowed: truncated, diverged, or none"):
        parse_censored("oom")
