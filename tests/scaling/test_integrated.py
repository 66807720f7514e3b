"""The posterior of one parameter by its profile likelihood, and fits that integrate over it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from moe_search.scaling.assumed import asymptote_of
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.integrated import Posterior, posterior_of, product
from moe_search.scaling.laws import get_law
from moe_search.scaling.optimum import find_optimum
from moe_search.scaling.problem import build_problem
from moe_search.scaling.resampling import Kind
from moe_search.spaces.errors import InvalidInputError

LAW = get_law("compute")
TRUTH = {"E": 1.7, "K": 1000.0, "s": 0.155}
FAR = pl.DataFrame({"train_flops": [1e24]})


def runs(count: int = 24, noise: float = 0.004, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"train_flops": np.geomspace(1e18, 1e21, count)})
    loss = LAW.predict(TRUTH, LAW.variables(frame)) * np.exp(noise * rng.normal(size=count))
    return frame.with_columns(loss=pl.Series(loss))


def interval(fitted: Fit, frame: pl.DataFrame = FAR) -> tuple[float, float]:
    low, high = np.exp(np.quantile(fitted.log_means(frame)[1][0], [0.025, 0.975]))
    return float(low), float(high)


def test_the_posterior_of_a_nearly_linear_parameter_is_students() -> None:
    """Held exponent, small normal noise, a wide Huber delta: E and K are linear, and the posterior is Student's t."""
    law = get_law("compute:s=0.155")
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"train_flops": np.geomspace(1e18, 1e21, 10)})
    loss = law.predict({"E": 1.7, "K": 1000.0}, law.variables(frame)) * np.exp(1e-3 * rng.normal(size=10))
    frame = frame.with_columns(loss=pl.Series(loss))
    problem = build_problem(law, frame, "loss", frame, 1.0)
    optimum = find_optimum(problem, 8, rng)
    found = posterior_of(problem, optimum, "E")
    design = np.stack([1 / loss, frame["train_flops"].to_numpy() ** -0.155 / loss], axis=1)  # of log loss
    answer, residual, *_ = np.linalg.lstsq(design, np.ones(10), rcond=None)
    error = np.sqrt(float(residual[0]) / 8 * np.linalg.inv(design.T @ design)[0, 0])
    exact = student.pdf((found.values - answer[0]) / error, 8) / error
    np.testing.assert_allclose(found.density, exact, atol=0.03 * exact.max())
    values = found.draw(2000, rng)
    assert np.quantile(values, 0.975) == pytest.approx(answer[0] + student.ppf(0.975, 8) * error, abs=0.1 * error)


def test_an_asymptote_that_the_runs_leave_open_reaches_down_to_nothing() -> None:
    frame = runs(8, noise=0.01, seed=2).filter(pl.col("train_flops") < 1e20)
    few = pl.concat([frame, runs(4, noise=0.01, seed=3).filter(pl.col("train_flops") < 1e20)])
    problem = build_problem(LAW, few, "loss", few, 1e-3)
    optimum = find_optimum(problem, 16, np.random.default_rng(0))
    found = posterior_of(problem, optimum, "E")
    assert found.values[0] < 0.05
    assert found.values[-1] <= few["loss"].to_numpy().max()
    assert np.trapezoid(found.density, found.values) == pytest.approx(1.0)
    values = found.draw(400, np.random.default_rng(0))
    assert np.quantile(values, 0.95) - np.quantile(values, 0.05) > 0.3


def test_a_fit_file_keeps_what_was_integrated(tmp_path: Path) -> None:
    found = fit(get_law("compute:E=integrated"), runs(), resamples=60, starts=8)
    assert set(found.parameters) == {"E", "K", "s"}
    free = fit(LAW, runs(), resamples=60, starts=8)
    assert found.parameters["E"].value == free.parameters["E"].value
    (tmp_path / "fit.json").write_text(found.to_file_text())
    again = Fit.from_file(tmp_path / "fit.json")
    assert asymptote_of(again) == asymptote_of(found)
    np.testing.assert_array_equal(again.predict(FAR).draws, found.predict(FAR).draws)


@pytest.mark.parametrize("kind", ["wild", "residual"])
def test_all_kinds_of_resampling_go_with_it(kind: Kind) -> None:
    pairs = interval(fit(get_law("compute:E=integrated"), runs(), resamples=200, starts=8))
    other = interval(fit(get_law("compute:E=integrated"), runs(), resampling=kind, resamples=200, starts=8))
    assert 0.7 < (other[1] - other[0]) / (pairs[1] - pairs[0]) < 1.4


def test_other_laws_and_held_parameters_integrate_too() -> None:
    rng = np.random.default_rng(0)
    dense = get_law("chinchilla")
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(7, 9, 40), "tokens": 10 ** rng.uniform(9, 11, 40)})
    loss = dense.predict(dict(dense.published["besiroglu2024"]), dense.variables(frame))
    frame = frame.with_columns(loss=pl.Series(loss * np.exp(0.003 * rng.normal(size=40))))
    found = fit(get_law("chinchilla:E=integrated,alpha=0.3478"), frame, resamples=200, starts=16)
    assert found.law.name == "chinchilla:alpha=0.3478,E=integrated"
    assert set(found.parameters) == {"E", "A", "B", "beta"}
    estimate = found.parameters["E"]
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 1.8172 < estimate.high


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("compute:F=integrated", "the law compute has no parameter 'F'"),
        ("compute:E=integrated,s=integrated", "E and s cannot both be integrated over"),
        ("compute:E=1.7,E=integrated", "E is either held or integrated over"),
        ("compute:E=marginal", "'E=marginal' holds no parameter at a number.*PARAMETER=integrated"),
    ],
)
def test_what_cannot_be_integrated_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        get_law(name)


def normal(center: float, sd: float) -> Posterior:
    values = np.linspace(center - 5 * sd, center + 5 * sd, 101)
    return Posterior(values, norm.pdf(values, center, sd), np.zeros((101, 3)))


def test_what_two_tables_say_together_is_the_product() -> None:
    found = product([normal(1.6, 0.1), normal(1.8, 0.2)])
    assert found.mode == pytest.approx(1.64, abs=5e-3)  # weights 4 to 1
    values = found.draw(4000, np.random.default_rng(0))
    assert values.std() == pytest.approx(1 / np.sqrt(1 / 0.1**2 + 1 / 0.2**2), rel=0.02)
    for other in (2.09, 3.0):  # one at the edge of what the other allows, one beyond it
        with pytest.raises(InvalidInputError, match="no value of the shared parameter is probable for all runs"):
            product([normal(1.6, 0.1), normal(other, 0.001)])
