"""The ten points, the rows that were left out, and the numbers beside the page."""

import dataclasses
import io
import json
import re
from pathlib import Path

import polars as pl
import pytest

from moe_search.scaling.report import ReportInput, report_csv, report_json
from moe_search.scaling.report.left_out import counted, left_out, reasons
from moe_search.scaling.report.points import points
from moe_search.scaling.report.run_predictions import run_predictions
from moe_search.scaling.report.sections import SECTIONS


def test_ten_points_each_with_a_finding_and_a_section(campaign: ReportInput) -> None:
    found = points(campaign)
    assert [point.number for point in found] == list(range(1, 11))
    assert {point.section for point in found} <= {section.key for section in SECTIONS}
    assert all(len(point.finding) > 20 for point in found)
    assert campaign.laws[0].law.convention.replace("`", "")[:20] in found[1].finding
    assert "resampled in units of trial" in found[0].finding


def test_without_anything_every_point_says_why() -> None:
    bare = ReportInput(title="bare", frame=pl.DataFrame({"n_active": [1e8, 2e8], "loss": [3.0, 2.9]}))
    found = {point.number: point.finding for point in points(bare)}
    assert found[2] == found[3] == found[4] == "No law was fitted."
    assert "not computed" in found[8]
    assert "target" in found[9]
    assert found[10] == "What made this report was not recorded."


def test_rows_are_left_out_for_the_first_reason_that_holds() -> None:
    frame = pl.DataFrame(
        {
            "n_active": [1e8, 1e8, 2e8, 3e8, 4e8, 5e8, 6e8],
            "loss": [3.0, 3.0, 2.9, None, 2.8, 9.0, 2.7],
            "status": ["finished", "finished", "truncated", "finished", "finished", "diverged", None],
            "router": ["softmax", "softmax", "softmax", "softmax", "random", "softmax", None],
        }
    )
    data = ReportInput(title="t", frame=frame)
    assert reasons(data).to_list() == [
        None,
        "it repeats another row exactly",
        "it was truncated: its loss is a bound of the law, not an observation",
        "it has no loss",
        "its router is random: a control",
        "it did not finish (diverged)",
        None,
    ]
    table = left_out(data)
    assert table is not None
    assert [row.cells[0].text for row in table.rows] == ["1"] * 5
    assert counted(data) == "2 of 7 rows were fitted, each counted as one run"


def test_rows_that_were_fitted_have_predictions_and_residuals(campaign: ReportInput) -> None:
    table = run_predictions(campaign)
    assert table.height == campaign.frame.height
    for fit in campaign.laws:
        name, fitted = fit.law.name, table.filter(pl.col("left_out").is_null())
        assert fitted[f"{name}/predicted"].null_count() == 0
        assert fitted.height == fit.n_runs
        assert table[f"{name}/predicted"].null_count() == table.height - fit.n_runs
        expected = 100 * (fitted["bpb"] / fitted[f"{name}/predicted"] - 1)
        assert fitted[f"{name}/residual_percent"].to_list() == pytest.approx(expected.to_list())
    assert campaign.comparison
    for fit in campaign.comparison.fits:
        assert fit.holdout
        judged = table[f"{fit.law.name}/held_out_predicted"].drop_nulls()
        assert judged.to_list() == [row["predicted"] for row in fit.holdout.predictions]


def test_json_and_csv_beside_the_page(campaign: ReportInput) -> None:
    content = json.loads(report_json(campaign))
    back = pl.read_csv(io.BytesIO(report_csv(campaign).encode()))
    assert len(content["points"]) == 10
    assert content["predictions"]["row"] == back["row"].to_list() == list(range(1, campaign.frame.height + 1))
    assert {score["law"] for score in content["rolling"]["scores"]} == {"joint_moe", "fine_grained"}
    assert content["sensitivity"]["law"] == campaign.laws[0].law.name
    matrix = content["fits"][0]["correlation"]["matrix"]
    assert [row[place] for place, row in enumerate(matrix)] == pytest.approx([1.0] * len(matrix))


def test_the_names_of_the_json_and_the_csv_are_documented(campaign: ReportInput) -> None:
    text = (Path(__file__).parents[3] / "docs/how-to/read-the-report.md").read_text()
    beside = text.split("## The numbers beside the page")[1]
    first = [line.split("|")[1] for line in beside.splitlines() if line.startswith("| `")]
    content = json.loads(report_json(campaign))
    assert {name for cell in first[:-4] for name in re.findall(r"`(\w+)`", cell)} == set(content)
    for name in (*content["held_out"], "profiles", "correlation", "resamples"):
        assert f"`{name}`" in beside, name
    laws = {fit.law.name for fit in campaign.laws}
    columns = [name.partition("/") for name in run_predictions(campaign).columns]
    assert {f"`LAW/{name}`" for law, _, name in columns if law in laws} == set(re.findall(r"`LAW/\w+`", beside))


def test_a_fit_without_resamples_has_no_correlation(campaign: ReportInput) -> None:
    alone = dataclasses.replace(campaign.laws[0], draws=campaign.laws[0].theta[None, :])
    content = json.loads(report_json(dataclasses.replace(campaign, fits=[alone], comparison=None)))
    assert {value for row in content["fits"][0]["correlation"]["matrix"] for value in row} == {None}
