import numpy as np
import pytest

from moe_search.scaling.prediction import Prediction


def test_an_interval_holds_its_share_of_the_draws() -> None:
    draws = np.random.default_rng(0).normal(2.0, 0.1, (3, 4000))
    low, high = Prediction(draws.mean(axis=1), draws).interval(0.8)
    assert ((draws >= low[:, None]) & (draws <= high[:, None])).mean(axis=1) == pytest.approx([0.8] * 3, abs=0.001)


@pytest.mark.filterwarnings("error")
def test_draws_of_what_nothing_holds_leave_an_end_open() -> None:
    draws = np.ones((2, 100))
    draws[0, :10] = np.inf
    draws[1] = np.inf
    prediction = Prediction(np.ones(2), draws)
    np.testing.assert_array_equal(prediction.low95, [1.0, np.inf])
    np.testing.assert_array_equal(prediction.high95, [np.inf, np.inf])
