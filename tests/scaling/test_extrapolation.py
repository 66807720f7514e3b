import numpy as np
import polars as pl
import pytest

from moe_search.scaling.extrapolation import Edge, compute_of, edges, reach


def test_compute_is_the_column_else_six_n_d_else_unknown() -> None:
    frame = pl.DataFrame({"n_active": [10, 20], "tokens": [5.0, 7.0], "train_flops": [1e3, 2e3]})
    np.testing.assert_allclose(compute_of(frame), [1e3, 2e3])
    np.testing.assert_allclose(compute_of(frame.drop("train_flops")), [300, 840])
    assert compute_of(frame.drop("train_flops", "tokens")) is None
    assert compute_of(frame.drop("train_flops").with_columns(tokens=pl.Series([None, 1.0]))) is None


def test_edges_are_of_what_is_known_and_do_not_follow_one_outlier() -> None:
    runs = pl.DataFrame({"n_active": np.geomspace(1e6, 1e9, 41), "tokens": [1e9] * 41})
    found = edges(runs)
    assert list(found) == ["train_flops", "n_active", "tokens"]
    assert found["tokens"] == Edge(pytest.approx(1e9), pytest.approx(0))
    assert found["n_active"] == Edge(pytest.approx(10**8.7), pytest.approx(2.4))
    assert list(edges(runs.drop("tokens"))) == ["n_active"]
    assert edges(pl.DataFrame({"loss": [2.0]})) == {}
    outlier = pl.concat([runs, pl.DataFrame({"n_active": [1e14], "tokens": [1e9]})])
    assert edges(outlier)["n_active"].level == pytest.approx(found["n_active"].level, rel=0.5)


def test_reach_is_zero_among_the_runs_and_where_nothing_is_known() -> None:
    levels = {"train_flops": Edge(6e18, 0.0), "n_active": Edge(1e9, 3.0), "tokens": Edge(1e9, 0.0)}
    rows = pl.DataFrame({"n_active": [1e8, 1e9, 1e10], "tokens": [1e9, 1e9, 1e11]})
    np.testing.assert_allclose(reach(rows, levels), [[0, 0, 3**1.5], [0, 0, 2], [0, 0, 2**1.5]], atol=1e-12)
    np.testing.assert_allclose(reach(rows.drop("tokens"), levels), [[0] * 3, [0, 0, 2], [0] * 3])


def test_reach_lies_between_the_errors_of_a_wrong_slope_and_of_a_missing_curvature() -> None:
    edge = {"tokens": Edge(1e9, 2.0)}
    near, far = reach(pl.DataFrame({"tokens": [2e9, 2e10]}), edge)[0]
    d = np.log10([2, 20])
    assert d[1] / d[0] < far / near < (d[1] / d[0]) ** 2
    assert near**2 == pytest.approx(d[0] * (d[0] * (d[0] + 2)))
