"""The registry of figures, and what single figures say."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.effects import Effect
from moe_search.scaling.profiles import Profile
from moe_search.scaling.report import ReportInput
from moe_search.scaling.report import figures as package
from moe_search.scaling.report.figures import figures
from moe_search.scaling.report.figures.effect_sizes import label
from moe_search.scaling.report.figures.schedules import FREE, schedule_name
from moe_search.scaling.report.law_tables import profiled
from moe_search.scaling.report.sections import SECTIONS
from moe_search.scaling.report.theme import INK, sequence
from moe_search.spaces.schedule import NAMED_SCHEDULES


def test_a_file_is_a_figure() -> None:
    files = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    assert set(figures()) == files
    assert {figure.section for figure in figures().values()} <= {section.key for section in SECTIONS}


@pytest.mark.parametrize("name", sorted(figures()))
def test_a_bare_table_gives_a_sentence(name: str) -> None:
    bare = ReportInput(title="bare", frame=pl.DataFrame({"loss": [3.0, 2.9]}))
    answer = figures()[name].draw(bare)
    assert answer == [] or (isinstance(answer, str) and answer.endswith("."))


@pytest.mark.parametrize("name", sorted(figures()))
def test_a_campaign_gives_captioned_plots(name: str, campaign: ReportInput) -> None:
    plots = figures()[name].draw(campaign)
    assert isinstance(plots, list)
    assert plots
    for plot in plots:
        assert plot.title
        assert len(plot.caption) > 20
        assert plot.figure.layout.height


def test_named_schedules_are_recognised() -> None:
    for name, schedule in NAMED_SCHEDULES.items():
        assert schedule_name(schedule.tilt, schedule.bow, schedule.wave) == name.replace("_", " ")
    assert schedule_name(0.1, 0.2, 0.3) == FREE


def test_law_figure_moves_points_by_their_residual(campaign: ReportInput) -> None:
    plots = figures()["law_fits"].draw(campaign)
    assert isinstance(plots, list)
    assert len(plots) == len(campaign.laws)
    traces = plots[0].figure.data
    markers = [trace for trace in traces if trace.mode == "markers"]
    drawn = sum(len(trace.x) for trace in markers)
    assert drawn == 2 * int((campaign.view.kinds != "random router").sum()), "every run once in each panel"


def test_residuals_are_small_where_the_law_is_true(campaign: ReportInput) -> None:
    plots = figures()["residuals"].draw(campaign)
    assert isinstance(plots, list)
    y = np.concatenate([trace.y for trace in plots[0].figure.data if trace.mode == "markers"])
    assert np.sqrt(np.mean(np.square(y))) < 2, "percent"


def test_residuals_have_a_panel_for_every_variable_that_differs(campaign: ReportInput) -> None:
    plots = figures()["residuals"].draw(campaign)
    assert isinstance(plots, list)
    titles = {axis.title.text for axis in plots[0].figure.select_xaxes()}
    assert {"training FLOPs", "training tokens", "granularity G", "experts per token", "schedule tilt"} <= titles
    assert {f"share of {domain}" for domain in campaign.view.domains} <= titles


def test_profiles_have_a_panel_a_parameter_and_meet_their_threshold_at_their_ends(campaign: ReportInput) -> None:
    plots = figures()["profiles"].draw(campaign)
    assert isinstance(plots, list)
    for plot, fit in zip(plots, campaign.laws, strict=True):
        curves = [trace for trace in plot.figure.data if trace.line.color == INK]
        bands = [trace for trace in plot.figure.data if trace.fill == "toself"]
        shown = fit.profiles
        assert len(curves) == len(bands) == len(shown)
        withheld = {name for name, estimate in fit.parameters.items() if estimate.value is None}
        assert withheld == set(fit.parameters) - {one.name for one in shown}
        assert ("withheld" in plot.caption) == bool(withheld)
        for curve, one in zip(curves, shown, strict=True):
            for end in (one.low, one.high):
                if end is not None:
                    after = int(np.searchsorted(curve.x, end))
                    assert min(curve.y[after - 1 : after + 1]) <= one.threshold <= max(curve.y[after - 1 : after + 1])


def test_an_interval_of_the_profile_may_be_open() -> None:
    values = np.array([1.0, 2.0])
    ends = {(None, None): "open", (1.0, None): "above 1", (None, 2.0): "below 2", (1.0, 2.0): "1 to 2"}
    for (low, high), words in ends.items():
        assert profiled(Profile("a", values, values, 3.8, low, high)) == words


def test_effect_labels_are_escaped_and_readable() -> None:
    effect = Effect("weight/<code>", 0.05, 0.25, -1.0, -2.0, -0.1)
    assert label(effect) == "share of &lt;code&gt;: 5\u202f% → 25\u202f%"
    assert (
        label(dataclasses.replace(effect, knob="router", start="softmax_topk", end="")) == "router: softmax topk → none"
    )


def test_sequence_runs_from_light_to_dark() -> None:
    assert sequence(1) == ["var(--seq-2)"]
    assert sequence(3) == ["var(--seq-0)", "var(--seq-2)", "var(--seq-5)"]
    assert len(set(sequence(6))) == 6
