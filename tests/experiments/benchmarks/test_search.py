"""``moe-search bench search``: tables, JSON and chart of curves that are known."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.console import Console

from moe_search.experiments.benchmarks.search import OURS, SearchReport, benchmark_search
from moe_search.experiments.cli.main import main
from moe_search.search.problem import Problem
from moe_search.search.worlds.contest import SHARES, Curve
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.space import SearchSpace


@pytest.fixture
def problem() -> Problem:
    space = SearchSpace(mixture=Mixture.uniform(("code", "web")))
    return Problem(space=space, ladder=Ladder(sizes=(100_000,), tokens=(1_000_000,)), budget_flops=1e15)


@pytest.fixture
def report(problem: Problem) -> SearchReport:
    def curves(*ends: float) -> list[Curve]:
        return [Curve((math.inf, 1.0, 0.8, 0.7, end), 10, 2.0) for end in ends]

    return SearchReport(
        machine={"date": "2026-01-02T03:04:05+00:00"},
        campaign="made",
        problem=problem,
        judged_at=Scale(n_active=1_000_000, tokens=10_000_000),
        curves={OURS: curves(0.1, 0.3), "random": curves(0.9, 0.7), "tpe": curves(0.5, 0.3)},
        table_best=[0.05, 0.15],
    )


def test_the_best_baseline_is_that_of_least_mean_regret(report: SearchReport) -> None:
    assert report.best_baseline == "tpe"
    estimate, low, high = report.ratio("tpe")
    assert estimate == pytest.approx(0.5)
    assert low == pytest.approx(0.2)  # 0.1 / 0.5, both worlds the first
    assert high == pytest.approx(1.0)


def test_json_has_every_search(report: SearchReport) -> None:
    printed = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert printed["what"] == "search"
    assert printed["shares"] == list(SHARES)
    assert printed["searches"]["random"]["regret"] == [None, 1.0, 0.8, 0.7, pytest.approx(0.8)]
    assert printed["searches"]["random"]["ours_over_it"]["estimate"] == pytest.approx(0.25)
    assert printed["searches"][OURS]["ours_over_it"] is None
    assert printed["searches"][OURS]["regret_at_end"] == [0.1, 0.3]


def test_the_table_is_sorted_by_regret(report: SearchReport) -> None:
    console = Console(width=160, record=True)
    for table in report.tables():
        console.print(table)
    text = console.export_text()
    assert text.index(OURS) < text.index("tpe") < text.index("random")
    assert "2 drawn worlds" in text
    assert "0.25" in text


def test_file_and_chart(report: SearchReport, tmp_path: Path) -> None:
    data, chart = report.save(tmp_path / "results")
    assert data.name == "20260102T0304-search.json"
    assert json.loads(data.read_text()) == report.as_json()
    drawn = ET.fromstring(chart.read_text())
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 3
    assert all(len(line.attrib["points"].split()) == 4 for line in lines)  # infinite regret has no point
    texts = "".join("".join(element.itertext()) for element in drawn.iter() if element.tag.endswith("text"))
    assert "tpe 0.40" in texts
    assert "made" in texts


def test_bad_requests(problem: Problem, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInputError, match="unknown policy"):
        benchmark_search("made", problem, policies=["rando"], worlds=1)
    with pytest.raises(InvalidInputError, match="0 worlds"):
        benchmark_search("made", problem, policies=[], worlds=0)
    for arguments, said in (
        (["bench", "fit", "--worlds", "3"], "bench search"),
        (["bench", "search", "--repeats", "3"], "bench kernels"),
        (["bench", "search", "--policy", "rando", "--worlds", "1"], "random"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
