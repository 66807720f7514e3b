"""The view of a runs table: usable runs, size groups, controls, comparable losses, hover texts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.scaling.report.runs_view import BITS_PER_BYTE, NATS_PER_TOKEN, RunsView, dense_runs, describe, group


def test_rungs_are_found_in_spite_of_scatter() -> None:
    found = group([1.0e6, 1.05e6, 0.97e6, 4.1e6, 3.9e6, 1.6e7])
    assert found.index.tolist() == [0, 0, 0, 1, 1, 2]
    assert len(found.labels) == len(found.centers) == 3


@given(st.lists(st.floats(min_value=1, max_value=1e15), min_size=1, max_size=80))
def test_groups_are_ordered_and_few(values: list[float]) -> None:
    found = group(values)
    assert 1 <= len(found.labels) <= 6
    order = np.argsort(values, kind="stable")
    assert (np.diff(found.index[order]) >= 0).all()
    assert set(found.index.tolist()) == set(range(len(found.labels)))
    assert all(a <= b for a, b in zip(found.centers, found.centers[1:], strict=False))


def test_failures_nan_and_missing_losses_are_not_usable() -> None:
    frame = pl.DataFrame(
        {"status": ["finished", "diverged", "finished", "finished", None], "bpb": [1.0, 2.0, None, float("nan"), 1.5]}
    )
    assert RunsView(frame).usable["bpb"].to_list() == [1.0, 1.5]


def test_objective_falls_back_to_nats() -> None:
    assert RunsView(pl.DataFrame({"bpb": [1.0], "loss": [3.0]})).objective is BITS_PER_BYTE
    assert (
        RunsView(pl.DataFrame({"bpb": pl.Series([None], dtype=pl.Float64), "loss": [3.0]})).objective is NATS_PER_TOKEN
    )
    assert RunsView(pl.DataFrame({"loss": [3.0]})).objective is NATS_PER_TOKEN


def test_a_table_without_losses_has_no_usable_runs() -> None:
    assert RunsView(pl.DataFrame({"n_active": [1, 2]})).usable.is_empty()


def test_controls_and_excess() -> None:
    frame = pl.DataFrame(
        {
            "n_active": [100, 100, 100, 1000],
            "tokens": [10, 10, 20, 10],
            "bpb": [2.0, 2.2, 1.0, 1.5],
            "n_moe_layers": [4, 0, 4, 4],
            "router": ["sigmoid", "", "random", "sigmoid"],
        }
    )
    seen = RunsView(frame)
    assert seen.kinds.tolist() == ["searched", "dense", "random router", "searched"]
    assert seen.excess == pytest.approx([0, 0.1, 0, 0])
    assert seen.size_column == "n_active"
    assert "embeddings included" in seen.size_words


def test_hover_escapes_what_comes_from_outside() -> None:
    row = {"trial": 3, "bpb": 1.25, "router": "<b onclick=x>", "weight/<img src=x>": 0.5, "n_moe_layers": 2}
    text = describe(row, BITS_PER_BYTE)
    assert "<img" not in text
    assert "<b onclick" not in text
    assert "1.250" in text


def test_dense_runs_are_known_by_what_the_table_has() -> None:
    moe, expansion = {"n_moe_layers": [0, 4, None]}, {"expansion": [1.0, 8.0, None]}
    sizes = {"n_active": [10, 10], "n_total": [10, 80]}
    assert dense_runs(pl.DataFrame(moe)).to_list() == [True, False, False]
    assert dense_runs(pl.DataFrame(expansion)).to_list() == [True, False, False]
    assert dense_runs(pl.DataFrame(sizes)).to_list() == [True, False]
    assert dense_runs(pl.DataFrame({"loss": [1.0]})).to_list() == [False]


def test_dense_models_alone_are_no_controls() -> None:
    frame = pl.DataFrame({"n_active": [10, 20], "n_total": [10, 20], "tokens": [5, 5], "loss": [3.0, 2.0]})
    assert RunsView(frame).kinds.tolist() == ["searched", "searched"]
