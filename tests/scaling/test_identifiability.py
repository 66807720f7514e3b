"""Constant and collinear columns: the values are withheld, with the reason, and predictions stay sane."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.identifiability import condition_number
from moe_search.scaling.laws import get_law


def table(law: str, seed: int = 0, runs: int = 60, **fixed: object) -> pl.DataFrame:
    """Runs of the law's central coefficients in which the columns of ``fixed`` are replaced."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "n_active": 10 ** rng.uniform(6, 8, runs),
            "tokens": 10 ** rng.uniform(7, 9.5, runs),
            "n_total": 10 ** rng.uniform(8, 9, runs),
            "granularity": 2.0 ** rng.integers(0, 5, runs),
        }
    ).with_columns(**fixed)
    frame = frame.with_columns(expansion=pl.col("n_total") / pl.col("n_active"))
    this = get_law(law)
    center = {p.name: p.center for p in this.parameters}
    loss = this.predict(center, this.variables(frame)) * np.exp(0.005 * rng.normal(size=runs))
    return frame.with_columns(loss=pl.Series(loss))


def withheld(result: Fit) -> set[str]:
    names = {name for name, estimate in result.parameters.items() if estimate.value is None}
    assert names == {name for group in result.unidentifiable for name in group.parameters}
    return names


def reasons(result: Fit) -> str:
    return " / ".join(group.reason for group in result.unidentifiable)


def test_a_constant_column_withholds_its_parameters() -> None:
    result = fit(get_law("chinchilla"), table("chinchilla", n_active=pl.lit(1e7)), resamples=50)
    assert withheld(result) == {"E", "A", "alpha"}
    assert "N is the same in all runs" in reasons(result)
    assert result.parameters["beta"].value == pytest.approx(0.3658, abs=0.1)
    assert result.derived["allocation_exponent"].value is None
    assert result.to_json()["parameters"]["alpha"] == {"value": None, "se": None, "low": None, "high": None}


def test_a_fixed_ratio_of_tokens_to_parameters_withholds_both_exponents() -> None:
    result = fit(get_law("chinchilla"), table("chinchilla", tokens=20 * pl.col("n_active")), resamples=50)
    assert {"A", "B", "alpha", "beta"} <= withheld(result)
    assert "N and D move together" in reasons(result)


@pytest.mark.parametrize(("law", "pair"), [("joint", "N and X"), ("joint_moe", "N and E")])
def test_constant_total_parameters_make_size_and_expansion_one_column(law: str, pair: str) -> None:
    result = fit(get_law(law), table(law, n_total=pl.lit(1e9)), resamples=50)
    exponents = {"joint": {"alpha", "delta"}, "joint_moe": {"alpha", "delta", "gamma"}}[law]
    assert exponents <= withheld(result)
    assert f"{pair} move together" in reasons(result)
    assert np.abs(result.theta).max() < 50, "an exponent near -500 is a collinear column"


def test_a_constant_knob_withholds_only_its_own_effect() -> None:
    result = fit(get_law("joint"), table("joint", granularity=pl.lit(4.0)), resamples=50)
    assert {"kappa", "lambda", "b", "g"} <= withheld(result)
    assert not {"B", "beta", "alpha"} & withheld(result)
    assert "G is the same in all runs" in reasons(result)


def test_what_is_withheld_still_widens_predictions() -> None:
    varied, constant = table("joint"), table("joint", granularity=pl.lit(1.0))
    known, unknown = (fit(get_law("joint"), frame, resamples=300) for frame in (varied, constant))
    elsewhere = table("joint", seed=1, granularity=pl.lit(16.0))
    width = [np.log(f.predict(elsewhere).high95 / f.predict(elsewhere).low95).mean() for f in (known, unknown)]
    assert width[1] > 2 * width[0]


def test_good_tables_withhold_nothing() -> None:
    result = fit(get_law("chinchilla"), table("chinchilla"), resamples=50)
    assert withheld(result) == set()


def test_condition_number_of_parallel_columns_is_huge_and_zero_columns_do_not_count() -> None:
    column = np.random.default_rng(0).normal(size=10)
    assert condition_number(np.stack([column, column]), np.ones(10)) > 1e12
    assert condition_number(np.stack([column, 0 * column]), np.ones(10)) == pytest.approx(1)
