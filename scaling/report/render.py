"""The report: everything a campaign or a table of runs has to say, in one HTML file that needs no network.

The page carries plotly.js once, its figures and all numbers as JSON, and a security policy under which nothing can be
fetched and only its own two scripts run, so that a name in somebody's table stays text.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from moe_search.scaling.report import decision, law_tables, numbers, tables
from moe_search.scaling.report.approaches_table import approaches_table, groups_used
from moe_search.scaling.report.choice_table import cheaper, near_optimal
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import figures
from moe_search.scaling.report.held_out_table import held_out_table, stack_sentence
from moe_search.scaling.report.left_out import counted, left_out
from moe_search.scaling.report.machine import csv_base64, script_json
from moe_search.scaling.report.machine import numbers as all_numbers
from moe_search.scaling.report.points import points
from moe_search.scaling.report.rolling_table import rolling_table
from moe_search.scaling.report.runs_view import SIZE_COLUMNS
from moe_search.scaling.report.search_tables import scores_table, truth_table
from moe_search.scaling.report.sections import SECTIONS
from moe_search.scaling.report.sensitivity_table import LARGE, sensitivity_table
from moe_search.scaling.report.theme import style_axes


@dataclass(frozen=True)
class Placed:
    """A plot with its key in the page."""

    key: str
    title: str
    caption: str
    half: bool
    height: int


@dataclass
class Chapter:
    """A section as the template sees it."""

    key: str
    title: str
    lead: str
    shown: bool
    """Whether there is anything to see; if not, its sentences stand at the end of the page."""
    plots: list[Placed] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def render_report(data: ReportInput) -> str:
    """Return the whole report as HTML. The same input gives the same text, byte for byte."""
    chapters, drawings = _draw(data)
    plotly_js, report_js = get_plotlyjs(), _asset("report.js")
    seen, recommendation = data.view, data.recommendation
    shown = {chapter.key for chapter in chapters.values() if chapter.shown}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            unit=seen.objective.unit,
            subtitle=_subtitle(data),
            sections=list(chapters.values()),
            controls=decision.controls(seen),
            near=near_optimal(recommendation.near_optimal) if recommendation else None,
            cheaper=cheaper(recommendation.best, recommendation.cheaper) if recommendation else None,
            held_out=held_out_table(data),
            stacked=stack_sentence(data),
            checklists=law_tables.checklists(data),
            points=points(data),
            shown=shown,
            sensitivities=sensitivity_table(data),
            large=f"{LARGE:g}",
            rolling=rolling_table(data),
            approaches=approaches_table(data),
            groups_used=groups_used,
            size_words=SIZE_COLUMNS,
            left_out=left_out(data),
            truths=truth_table(data.search) if data.search else None,
            scores=scores_table(data.search) if data.search else None,
            counted=counted(data),
            statuses=_statuses(data.frame),
            failed=tables.failures(seen),
            runs_table=tables.all_runs(seen),
            ranges_table=tables.ranges(seen),
            csv=csv_base64(data.frame),
            machine=script_json(all_numbers(data)),
            figures=script_json({"runs": seen.descriptions, "plots": drawings}),
            plotly_js=plotly_js,
            report_js=report_js,
            script_hashes=" ".join(map(_hash, (plotly_js, report_js))),
            css=_asset("report.css"),
        )
    )


def _draw(data: ReportInput) -> tuple[dict[str, Chapter], dict[str, object]]:
    """Draw every figure of the registry into its section; a figure that cannot be drawn leaves its sentence."""
    chapters = {
        section.key: Chapter(section.key, section.title, section.lead, _has_text(section.key, data))
        for section in SECTIONS
    }
    drawings: dict[str, object] = {}
    if data.search is None:
        chapters["search"].absent.append("This report was made from a table of runs, without a search.")
    for name, figure in figures().items():
        chapter = chapters[figure.section]
        drawn = figure.draw(data) if data.view.usable.height else "No run finished with a loss."
        if isinstance(drawn, str):
            chapter.absent += [drawn] if drawn not in chapter.absent else []
            continue
        for number, plot in enumerate(drawn):
            key = f"{name}-{number}"
            drawings[key] = json.loads(style_axes(plot.figure).to_json())
            chapter.plots.append(Placed(key, plot.title, plot.caption, plot.half, int(plot.figure.layout.height)))
            chapter.shown = True
    return chapters, drawings


def _has_text(section: str, data: ReportInput) -> bool:
    """Whether a section has text or tables even without figures."""
    match section:
        case "answer" | "neighbours":
            return data.recommendation is not None
        case "heldout":
            return bool(data.held_out) or not isinstance(data.rolling, str)
        case "approaches":
            return not isinstance(data.approaches, str)
        case "checklist":
            return bool(data.laws)
        case "search":
            return data.search is not None
    return section in ("points", "sensitivity", "budget", "runs", "provenance")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("moe_search.scaling.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"n": numbers, "words": decision}
    environment.filters["sentence"] = numbers.sentence
    return environment


@cache
def _asset(name: str) -> str:
    return (files("moe_search.scaling.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The token by which the page's security policy knows a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _subtitle(data: ReportInput) -> str:
    seen = data.view
    parts = [numbers.count(data.frame.height, "run")]
    if seen.size_column and seen.usable.height:
        parts.append(numbers.count(len(seen.sizes.labels), "size"))
    if seen.has("tokens"):
        parts.append(numbers.count(len(seen.horizons.labels), "token horizon"))
    if seen.domains:
        parts.append(numbers.count(len(seen.domains), "domain"))
    if seen.has("train_flops"):
        known: Mapping[str, pl.Series] = {
            name: data.frame[name].cast(pl.Float64)
            for name in ("paid_flops", "train_flops")
            if name in data.frame.columns
        }
        parts.append(f"{numbers.power(float(next(iter(known.values())).sum()))} training FLOPs")
    when = [value for name, value in data.provenance.items() if name.lower() == "date"]
    return ", ".join([*parts, *when])


def _statuses(frame: pl.DataFrame) -> str:
    """``119 runs: 112 finished, 3 diverged``."""
    if "status" not in frame.columns:
        return f"{numbers.count(frame.height, 'run')}; the table does not say how they ended."
    ends = Counter(str(status) for status in frame["status"].fill_null("unknown").to_list())
    return (
        f"{numbers.count(frame.height, 'run')}: "
        + ", ".join(f"{number} {status}" for status, number in ends.most_common())
        + "."
    )
