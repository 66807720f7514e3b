import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.scaling.expressions import mask
from moe_search.scaling.holdout import largest_scale, score
from moe_search.scaling.prediction import Prediction
from moe_search.spaces.errors import InvalidInputError


def test_scores_are_signed_and_in_percent() -> None:
    draws = np.stack([np.linspace(0.9, 1.1, 1001), np.linspace(1.0, 1.2, 1001), np.linspace(2.0, 2.2, 1001)])
    result = score(Prediction(np.array([1.01, 1.1, 2.1]), draws), np.array([1.0, 1.0001, 1.5]))
    assert result.mape == pytest.approx(100 * (0.01 + (1.1 / 1.0001 - 1) + 0.4) / 3)
    assert result.bias == pytest.approx(result.mape)
    assert result.coverage_95 == pytest.approx(1 / 3)
    assert result.predictions[0]["low_95"] < result.predictions[0]["low_80"] < 1.0 < result.predictions[0]["high_80"]


def test_calibrated_draws_cover_at_their_level() -> None:
    rng = np.random.default_rng(0)
    result = score(Prediction(np.ones(2000), 1 + 0.1 * rng.normal(size=(2000, 400))), 1 + 0.1 * rng.normal(size=2000))
    assert result.coverage_80 == pytest.approx(0.8, abs=0.03)
    assert result.coverage_95 == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(1e10, 1e24), min_size=10, max_size=40, unique=True))
def test_the_largest_scale_is_on_top_and_leaves_enough(flops: list[float]) -> None:
    frame = pl.DataFrame({"train_flops": flops})
    values = np.array(flops)
    if np.mean(values > values.max() / 2) > 0.5:
        with pytest.raises(InvalidInputError, match="more than half"):
            largest_scale(frame)
        return
    held = mask(frame, largest_scale(frame), where="--holdout").to_numpy()
    assert held.sum() >= 3
    assert held.mean() <= 0.5
    assert values[held].min() > values[~held].max()


def test_too_small_a_table_has_no_largest_scale() -> None:
    with pytest.raises(InvalidInputError, match="2 runs are too few"):
        largest_scale(pl.DataFrame({"train_flops": [1.0, 2.0]}))
    with pytest.raises(InvalidInputError, match="no column 'train_flops'"):
        largest_scale(pl.DataFrame({"tokens": [1.0, 2.0]}))
