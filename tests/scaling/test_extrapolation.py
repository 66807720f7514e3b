import numpy as np
import polars as pl
import pytest

from moe_search.scaling.extrapolation import compute_of, decades_beyond, edges


def test_compute_is_the_column_else_six_n_d_else_unknown() -> None:
    frame = pl.DataFrame({"n_active": [10, 20], "tokens": [5.0, 7.0], "train_flops": [1e3, 2e3]})
    np.testing.assert_allclose(compute_of(frame), [1e3, 2e3])
    np.testing.assert_allclose(compute_of(frame.drop("train_flops")), [300, 840])
    assert compute_of(frame.drop("train_flops", "tokens")) is None
    assert compute_of(frame.drop("train_flops").with_columns(tokens=pl.Series([None, 1.0]))) is None


def test_edges_are_of_what_is_known_and_do_not_follow_one_outlier() -> None:
    runs = pl.DataFrame({"n_active": np.geomspace(1e6, 1e9, 41), "tokens": [1e9] * 41})
    assert list(edges(runs)) == ["train_flops", "n_active", "tokens"]
    assert list(edges(runs.drop("tokens"))) == ["n_active"]
    assert edges(pl.DataFrame({"loss": [2.0]})) == {}
    outlier = pl.concat([runs, pl.DataFrame({"n_active": [1e14], "tokens": [1e9]})])
    assert edges(outlier)["n_active"] == pytest.approx(edges(runs)["n_active"], rel=0.5)


def test_decades_are_zero_among_the_runs_and_where_nothing_is_known() -> None:
    levels = {"train_flops": 6e18, "n_active": 1e9, "tokens": 1e9}
    rows = pl.DataFrame({"n_active": [1e8, 1e9, 1e10], "tokens": [1e9, 1e9, 1e11]})
    np.testing.assert_allclose(decades_beyond(rows, levels), [[0, 0, 3], [0, 0, 1], [0, 0, 2]], atol=1e-12)
    np.testing.assert_allclose(decades_beyond(rows.drop("tokens"), levels), [[0] * 3, [0, 0, 1], [0] * 3])
