"""Expressions over an outsider's columns."""

import polars as pl

from moe_search.scaling.expressions import evaluate, mask


def test_digits_may_be_grouped_by_underscores() -> None:
    frame = pl.DataFrame({"n_active": [1_000_000, 2_000_000], "a_1_2": [1, 2], "x 1_0": [10, 20]})
    assert mask(frame, "n_active > 1_500_000", where="--where").to_list() == [False, True]
    assert evaluate(frame, "a_1_2 + 0", where="--map").to_list() == [1, 2]
    assert evaluate(frame, '"x 1_0" / 1_0', where="--map").to_list() == [1, 2]
