import numpy as np
import polars as pl
import pytest

from moe_search.scaling.extrapolation import compute_of, distance, edge


def test_compute_is_the_column_else_six_n_d_else_unknown() -> None:
    frame = pl.DataFrame({"n_active": [10, 20], "tokens": [5.0, 7.0], "train_flops": [1e3, 2e3]})
    np.testing.assert_allclose(compute_of(frame), [1e3, 2e3])
    np.testing.assert_allclose(compute_of(frame.drop("train_flops")), [300, 840])
    assert compute_of(frame.drop("train_flops", "tokens")) is None
    assert compute_of(frame.drop("train_flops").with_columns(tokens=pl.Series([None, 1.0]))) is None


def test_distance_is_zero_among_the_runs_and_a_decade_at_ten_times_the_edge() -> None:
    flops = np.geomspace(1e15, 1e19, 42)
    level = edge(flops)
    assert (flops > level).sum() == 5
    np.testing.assert_allclose(distance(np.array([1e15, level, 10 * level]), level), [0, 0, 1])
    assert edge(np.append(flops, 1e25)) == pytest.approx(level, rel=0.5)
