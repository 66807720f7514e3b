import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import find_optimum
from moe_search.scaling.problem import build_problem
from moe_search.scaling.profiles import profile
from moe_search.scaling.solver import huber
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("chinchilla")
TRUTH = {"E": 0.6, "A": 180.0, "B": 700.0, "alpha": 0.35, "beta": 0.37}


def runs(count: int, seed: int, noise: float = 0.01) -> pl.DataFrame:
    """Tiny dense runs that follow TRUTH."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(5.5, 7.5, count), "tokens": 10 ** rng.uniform(6.5, 9, count)})
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(noise * rng.normal(size=count))
    return frame.with_columns(loss=pl.Series(loss))


def test_every_point_is_the_best_fit_with_the_parameter_held() -> None:
    frame = runs(40, 0)
    problem = build_problem(LAW, frame, "loss", frame, 0.05)
    optimum = find_optimum(problem, 16, np.random.default_rng(0))
    (found,) = profile(problem, optimum, ["beta"], points=5)
    j = LAW.index("beta")
    heights = []
    for value in found.values:

        def objective(others: Array, value: float = value) -> float:
            theta = np.insert(others, j, value)[None, :]
            return float(huber(LAW.log_loss(theta, problem.x)[0] - problem.log_y, 0.05).sum())

        start = np.delete(optimum.theta, j)
        options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-14, "adaptive": True}
        heights.append(minimize(objective, start, method="Nelder-Mead", options=options).fun)
    ratio = (np.array(heights) - optimum.objective) / found.statistic
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-3)
    # Inside the Huber loss's quadratic part the scale is the residual variance.
    assert 2 * np.median(ratio) == pytest.approx(np.sum(optimum.residual**2) / optimum.freedom, rel=1e-3)


@pytest.mark.parametrize(
    ("seeds", "starts"), [pytest.param(6, 12, id="few"), pytest.param(20, 32, id="many", marks=pytest.mark.slow)]
)
def test_intervals_hold_the_truth_in_small_tables_too(seeds: int, starts: int) -> None:
    hits = []
    for seed in range(seeds):
        found = fit(LAW, runs(12 if seed % 2 else 30, seed), resamples=0, starts=starts, profiles=True)
        hits += [(p.low or 0.0) <= TRUTH[p.name] <= (p.high or math.inf) for p in found.profiles]
    assert len(hits) == seeds * 5
    assert np.mean(hits) >= 0.85


def test_a_parameter_that_no_run_determines_is_as_open_as_its_prior() -> None:
    frame = runs(40, 1).with_columns(tokens=pl.lit(1e8))
    problem = build_problem(LAW, frame, "loss", frame, 1e-3)
    optimum = find_optimum(problem, 16, np.random.default_rng(0))
    by_name = {one.name: one for one in profile(problem, optimum)}
    assert by_name["B"].low is not None
    assert by_name["B"].high is not None
    assert by_name["B"].high > 1e3 * by_name["B"].low
    alpha = by_name["alpha"]
    assert alpha.low is not None
    assert alpha.high is not None
    assert alpha.low < LAW.natural(optimum.theta[None, :])["alpha"][0] < alpha.high
    assert alpha.statistic.min() > -1e-3
    fitted = fit(LAW, frame, resamples=0, starts=16, profiles=True)
    withheld = {name for name, estimate in fitted.parameters.items() if estimate.value is None}
    assert withheld == {"B", "beta", "E"}
    assert {one.name for one in fitted.profiles} == set(LAW.names) - withheld


def test_only_what_is_asked_for_is_profiled_and_must_exist() -> None:
    frame = runs(30, 2)
    assert fit(LAW, frame, resamples=0, starts=8).profiles == ()
    problem = build_problem(LAW, frame, "loss", frame, 1e-3)
    optimum = find_optimum(problem, 8, np.random.default_rng(0))
    assert [one.name for one in profile(problem, optimum, ["beta", "E"])] == ["beta", "E"]
    with pytest.raises(InvalidInputError, match="no parameter 'gamma'; allowed: E, A, B, alpha, beta"):
        profile(problem, optimum, ["gamma"])


def test_where_nothing_is_identified_it_is_said_that_nothing_is_profiled() -> None:
    frame = runs(8, 4).with_columns(n_active=pl.lit(1e6), tokens=pl.lit(2e7))
    found = fit(LAW, frame, resamples=0, starts=8, profiles=True)
    assert found.profiles == ()
    assert "no parameter is identified, so that no likelihood is profiled" in found.warnings


def test_profiles_survive_the_fit_file(tmp_path: Path) -> None:
    found = fit(LAW, runs(30, 3), resamples=0, starts=8, profiles=True)
    path = tmp_path / "fit.json"
    path.write_text(found.to_file_text())
    for one, again in zip(found.profiles, Fit.from_file(path).profiles, strict=True):
        assert (one.name, one.low, one.high, one.threshold) == (again.name, again.low, again.high, again.threshold)
        np.testing.assert_array_equal(one.values, again.values)
        np.testing.assert_array_equal(one.statistic, again.statistic)
