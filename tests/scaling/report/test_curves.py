"""Hypothetical runs: they pass through the runs that exist, and keep what belongs to the design."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.report import ReportInput
from moe_search.scaling.report.curves import at_scale, expected, typical_row
from moe_search.scaling.report.runs_view import RunsView


def test_the_typical_design_is_the_best_at_the_top(campaign: ReportInput) -> None:
    seen = campaign.view
    row = typical_row(seen)
    top = seen.usable.filter(
        pl.col("n_active_non_embedding") > 800_000,
        pl.col("tokens") == 6_000_000,
        pl.col("router").is_in(["sigmoid", "softmax_topk"]),
    )
    assert row["bpb"] == top["bpb"].min()


def test_a_design_at_its_own_scale_is_itself(campaign: ReportInput) -> None:
    seen = campaign.view
    row = typical_row(seen)
    size, tokens = np.array([float(row["n_active_non_embedding"])]), np.array([float(row["tokens"])])  # type: ignore[arg-type]
    made = at_scale(seen, row, size, tokens)
    for name in ("n_active", "n_total", "train_flops"):
        assert made[name][0] == pytest.approx(row[name], rel=0.12), name
    for name in ("expansion", "granularity", "weight/code"):
        assert made[name][0] == row[name]
    for fit in campaign.laws:
        own = expected(fit, seen.usable.filter(pl.col("run_key") == row["run_key"]))
        assert expected(fit, made) == pytest.approx(own, rel=0.02)


def test_curves_fall_with_tokens_and_size(campaign: ReportInput) -> None:
    seen, row = campaign.view, typical_row(campaign.view)
    grid = np.geomspace(1e5, 1e7, 20)
    for fit in campaign.laws:
        assert (np.diff(expected(fit, at_scale(seen, row, np.full(20, 4e5), grid * 10))) < 0).all()
        assert (np.diff(expected(fit, at_scale(seen, row, grid, np.full(20, 3e6)))) < 0).all()


def test_one_size_is_enough() -> None:
    frame = pl.DataFrame(
        {
            "n_active": [1e6, 1e6],
            "n_total": [4e6, 4e6],
            "tokens": [1e7, 2e7],
            "train_flops": [6e13, 12e13],
            "bpb": [2.0, 1.9],
        }
    )
    seen = RunsView(frame)
    made = at_scale(seen, typical_row(seen), np.array([2e6]), np.array([1e7]))
    assert made["n_total"][0] == pytest.approx(8e6)
    assert made["train_flops"][0] == pytest.approx(12e13)
