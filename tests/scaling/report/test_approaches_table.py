"""The three approaches and the speedup in the report: what the table says, and what is said where there is none."""

import dataclasses
import json

import polars as pl
import pytest

from moe_search.experiments.examining import routed_speedup
from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law
from moe_search.scaling.report import ReportInput, render_report, report_json
from moe_search.scaling.report.approaches_table import approaches_table, exponents, groups_used
from moe_search.scaling.report.figures import figures
from moe_search.scaling.report.numbers import NO_VALUE, fixed
from moe_search.scaling.report.points import points
from moe_search.spaces.errors import InvalidInputError


def test_a_row_an_approach_with_what_it_found_and_what_it_lacks(campaign: ReportInput) -> None:
    table, found = approaches_table(campaign), campaign.approaches
    assert table
    assert not isinstance(found, str)
    for row, one in zip(table.rows, found.approaches, strict=True):
        assert len(row.cells) == len(table.columns)
        assert row.cells[1].text == fixed(one.size_exponent.value)
        assert (row.cells[1].text == NO_VALUE) == bool(one.reason)
        assert one.reason or f"{row.cells[1].text} (Approach {one.number})" in exponents(campaign)
        assert all(f": {group.reason}" in groups_used(one) for group in one.groups if not group.used)
    assert exponents(campaign) in points(campaign)[6].finding
    page = render_report(campaign)
    for one in found.approaches:
        assert one.known_bias in page
    content = json.loads(report_json(campaign))
    assert [one["number"] for one in content["approaches"]["approaches"]] == [1, 2, 3]


def test_lines_are_drawn_for_those_that_have_an_answer(campaign: ReportInput) -> None:
    found = campaign.approaches
    assert not isinstance(found, str)
    (plot,) = figures()["approaches"].draw(campaign)
    lines = {trace.name[0] for trace in plot.figure.data if trace.mode == "lines" and trace.name}
    assert lines == {str(one.number) for one in found.approaches if one.size_exponent.value is not None}


def test_a_reason_stands_where_there_is_nothing_to_show(campaign: ReportInput) -> None:
    bare = dataclasses.replace(campaign, approaches="No sizes.", speedup="No dense runs.")
    page = render_report(bare)
    assert "<dd>No sizes.</dd>" in page
    assert "<dd>No dense runs.</dd>" in page
    assert approaches_table(bare) is None
    assert json.loads(report_json(bare))["speedup"] == "No dense runs."


def test_the_speedup_is_that_of_the_points(campaign: ReportInput) -> None:
    (plot,) = figures()["speedup"].draw(campaign)
    found = campaign.speedup
    assert not isinstance(found, str)
    curve = next(trace for trace in plot.figure.data if trace.mode == "lines+markers")
    assert list(curve.y) == [point.speedup for point in found.points if point.speedup is not None]
    hollow = [symbol == "circle-open" for symbol in curve.marker.symbol]
    assert hollow == [bool(point.beyond_runs) for point in found.points if point.speedup is not None]
    assert {"dense", "routed"} == {found.reference, found.other}


def test_speedup_needs_both_kinds_and_a_law_that_tells_them_apart(campaign: ReportInput) -> None:
    usable = campaign.view.usable
    with pytest.raises(InvalidInputError, match="one kind only"):
        routed_speedup(usable.filter(pl.col("n_moe_layers") > 0), campaign.fits, seed=0)
    blind = fit(get_law("chinchilla"), usable, resamples=0, starts=16)
    with pytest.raises(InvalidInputError, match="tells a routed model"):
        routed_speedup(usable, [blind], seed=0)
