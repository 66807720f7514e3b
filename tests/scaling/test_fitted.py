import numpy as np
import pytest

from moe_search.scaling.fitted import Estimate


def test_an_estimate_has_the_spread_of_its_finite_draws() -> None:
    draws = np.append(np.random.default_rng(0).normal(3.0, 0.5, 4000), [np.inf, np.nan])
    estimate = Estimate.of(3.1, draws)
    assert estimate.value == 3.1
    assert estimate.se == pytest.approx(0.5, rel=0.05)
    assert (estimate.low, estimate.high) == pytest.approx((2.02, 3.98), abs=0.05)


@pytest.mark.filterwarnings("error")
def test_draws_of_what_nothing_holds_have_an_infinite_spread() -> None:
    estimate = Estimate.of(1.0, np.array([1e-200, 1.0, 1e200]))
    assert estimate.se == np.inf


def test_what_has_no_value_says_nothing_and_one_draw_gives_no_interval() -> None:
    assert Estimate.of(np.nan, np.ones(5)) == Estimate.withheld()
    assert Estimate.of(2.0, np.ones(1)) == Estimate(2.0, None, None, None)
