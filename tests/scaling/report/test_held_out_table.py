"""The held-out table: who is worse than the first by how much, and the stack of those that cannot be told apart."""

import dataclasses
import json
import math

import pytest

from moe_search.scaling.report import ReportInput, render_report, report_json
from moe_search.scaling.report.figures import figures
from moe_search.scaling.report.held_out_table import held_out_table, stack_sentence
from moe_search.scaling.report.points import points
from moe_search.scaling.stacking import Stack
from moe_search.scaling.validation import Difference


@pytest.fixture
def tied(campaign: ReportInput) -> ReportInput:
    """The campaign as if its two laws had tied."""
    assert campaign.comparison
    first, second = campaign.comparison.fits
    comparison = dataclasses.replace(
        campaign.comparison,
        differences=(Difference(second.law.name, first.law.name, 0.213, -0.1, 0.5, 12),),
        stack=Stack((first, second), (0.75, 0.25)),
        stack_holdout=first.holdout,
    )
    return dataclasses.replace(campaign, comparison=comparison)


def test_tied_laws_are_stacked_and_said_to_be(tied: ReportInput) -> None:
    table = held_out_table(tied)
    assert table
    assert tied.comparison
    assert [row.cells[0].text for row in table.rows] == [
        *(fit.law.name.replace("_", " ") for fit in tied.comparison.fits),
        "stack of the tied",
    ]
    worse = table.rows[1].cells[5]
    assert (worse.text, worse.small) == ("+0.21", "\u22120.10 to +0.50; tied")
    assert len({len(row.cells) for row in table.rows} | {len(table.columns)}) == 1
    assert "75\u202f% and" in stack_sentence(tied)
    assert "cannot be told from the first" in points(tied)[4].finding
    assert stack_sentence(tied) in render_report(tied)
    held_out = json.loads(report_json(tied))["held_out"]
    assert sorted(held_out["stack"].values()) == [0.25, 0.75]
    assert held_out["differences"][0]["tied"] is True
    assert held_out["stack_holdout"]["mape"] == tied.held_out[0][1].mape
    (plot,) = figures()["held_out"].draw(tied)
    assert len(plot.figure.layout.annotations) == 3, "a panel a law, and one for the stack"


def test_a_law_that_wins_needs_no_stack(tied: ReportInput) -> None:
    assert tied.comparison
    clear = Difference(tied.comparison.fits[1].law.name, tied.comparison.fits[0].law.name, 1.0, 0.5, 1.5, 12)
    comparison = dataclasses.replace(tied.comparison, differences=(clear,), stack=None, stack_holdout=None)
    data = dataclasses.replace(tied, comparison=comparison)
    table = held_out_table(data)
    assert table
    assert len(table.rows) == 2
    assert "tied" not in table.rows[1].cells[5].small
    assert stack_sentence(data) == ""
    assert "cannot be told" not in points(data)[4].finding


def test_one_unit_has_no_interval(tied: ReportInput) -> None:
    assert tied.comparison
    one = Difference(tied.comparison.fits[1].law.name, tied.comparison.fits[0].law.name, 1.0, -math.inf, math.inf, 1)
    data = dataclasses.replace(tied, comparison=dataclasses.replace(tied.comparison, differences=(one,)))
    table = held_out_table(data)
    assert table
    assert table.rows[1].cells[5].small == "one unit: no interval"
    assert json.loads(report_json(data))["held_out"]["differences"][0]["low"] is None
