"""The report in headless Chromium, from a file, without network: all is drawn, nothing complains, tables sort."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.report import render_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SYNTHETIC = Path(__file__).parents[1] / "scaling" / "report" / "synthetic.py"
# Runs in a copy of the page without its security policy, which would not let a foreign script in.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const table = document.querySelector("table.sortable");
  const head = [...table.querySelectorAll("th button")].find((button) => button.textContent === "tokens");
  const column = head.closest("th").cellIndex;
  const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
  head.click();
  const ascending = values();
  head.click();
  const result = {
    ascending,
    descending: values(),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    plots: [...document.querySelectorAll(".plot")].map((plot) => ({
      id: plot.id,
      drawn: plot.querySelectorAll("svg.main-svg").length,
      // a heat map is one image; without a cell it draws none
      traces: plot.querySelectorAll(".trace, .bars .point, .hm image").length,
      wide: plot.getBoundingClientRect().width,
    })),
    colors: [...document.querySelectorAll(".plot svg.main-svg *")].filter((item) =>
      [item.style.fill, item.style.stroke].some((color) => color.includes("var("))).length,
    fonts: Math.min(...[...document.querySelectorAll(".plot .xtick text, .plot .legendtext")].map((text) =>
      parseFloat(getComputedStyle(text).fontSize))),
  };
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
}, 500));
</script>"""


@dataclass
class Visit:
    """What the browser saw."""

    dom: str
    console: list[str]
    requests: list[str]
    """URLs that the page itself asked for; Chromium's own housekeeping has no origin and is left out."""

    @property
    def probe(self) -> dict[str, object]:
        found = re.search(r'<pre id="probe">(.*?)</pre>', self.dom)
        assert found, "the probe did not run to its end"
        return json.loads(found[1])


def visit(page: Path, folder: Path, *, width: int = 1300) -> Visit:
    """Open a page with the network cut off; return its document, console and every URL that was asked for."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    log = folder / "net.json"
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={width},2000",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
            "--virtual-time-budget=20000",
            "--enable-logging=stderr",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    # Chromium writes one event a line
    events = [json.loads(line.rstrip().rstrip(",")) for line in log.read_text().splitlines() if '"initiator"' in line]
    asked = [event["params"] for event in events if event["params"]["initiator"] != "not an origin"]
    requests = [parameters["url"] for parameters in asked]
    return Visit(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], requests)


@pytest.fixture(scope="module")
def html() -> str:
    if "report_synthetic" not in sys.modules:  # the tests of the report may have made its campaign already
        spec = importlib.util.spec_from_file_location("report_synthetic", SYNTHETIC)
        assert spec
        assert spec.loader
        sys.modules["report_synthetic"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["report_synthetic"])
    return render_report(sys.modules["report_synthetic"].campaign())


@pytest.fixture(scope="module")
def visited(html: str, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("report")
    page = folder / "report.html"
    page.write_text(html, encoding="utf-8")
    return visit(page, folder)


def probed(html: str, folder: Path, width: int) -> Visit:
    page = folder / "probed.html"
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert without_policy != html
    page.write_text(without_policy.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return visit(page, folder, width=width)


def test_every_figure_is_drawn(visited: Visit) -> None:
    parts = visited.dom.split('<div class="plot js-plotly-plot"')[1:]
    assert len(parts) >= 15
    for part in parts:
        assert 'class="main-svg"' in part.split("<figcaption>")[0], part[:60]


def test_the_console_stays_silent(visited: Visit) -> None:
    assert visited.console == []


def test_nothing_is_asked_from_the_network(visited: Visit, html: str) -> None:
    assert [url for url in visited.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len(html.encode()) < 7e6


def test_the_network_check_would_notice(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.invalid/a.png">', encoding="utf-8")
    assert "http://example.invalid/a.png" in visit(page, tmp_path).requests


def test_a_foreign_script_does_not_run(html: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", "<script>document.title = 'owned'</script></body>"), encoding="utf-8")
    seen = visit(page, tmp_path)
    assert "<title>owned" not in seen.dom
    assert any("Content Security Policy" in line for line in seen.console)


@pytest.mark.parametrize("width", [1300, 700])
def test_layout_and_sorting(html: str, tmp_path: Path, width: int) -> None:
    seen = probed(html, tmp_path, width).probe
    assert seen["ascending"] == sorted(seen["ascending"])  # type: ignore[type-var]
    assert seen["descending"] == sorted(seen["descending"], reverse=True)  # type: ignore[type-var]
    assert seen["overflow"] == 0, "the page scrolls sideways"
    assert seen["colors"] == 0, "a colour was left unresolved"
    assert seen["fonts"] >= 11  # type: ignore[operator]
    for plot in seen["plots"]:  # type: ignore[attr-defined]
        assert plot["drawn"] >= 1
        assert plot["traces"] >= 1, plot
        assert plot["wide"] > 300, plot


@pytest.fixture(scope="module")
def table_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's report of 60 dense runs of known truth, one of them repeated and one without a loss."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    sizes = np.repeat(np.geomspace(2e7, 2e9, 10), 6)
    tokens = sizes * np.tile([5.0, 10, 20, 40, 80, 160], 10)
    loss = (1.8 + 480 / sizes**0.35 + 2000 / tokens**0.37) * np.exp(rng.normal(0, 0.003, 60))
    frame = pl.DataFrame({"Model Size": sizes, "tokens": tokens, "loss": loss, "note": ["<i>&</i>"] * 60})
    frame = pl.concat([frame, frame.head(1), frame.head(1).with_columns(loss=None)])
    frame.write_csv(folder / "runs.csv")
    command = [sys.executable, "-m", "moe_search", "report", "runs.csv", "-o", "report.html"]
    options = ["--law", "chinchilla", "--law", "kaplan", "--map", 'n_total="Model Size"']
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=180, check=True)
    assert done.stdout.split() == ["report.html"]
    assert "report.json" in done.stderr
    assert "report.csv" in done.stderr
    return folder / "report.html"


@pytest.mark.slow
def test_a_table_shows_its_ten_points(table_report: Path, tmp_path: Path) -> None:
    seen = visit(table_report, tmp_path)
    assert seen.console == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    content = json.loads(table_report.with_suffix(".json").read_text())
    assert [point["number"] for point in content["points"]] == list(range(1, 11))
    for point in content["points"]:
        assert f'<tr id="point-{point["number"]}"><td class="n">{point["number"]}</td>' in seen.dom
        place = "missing" if point["section"] == "answer" else point["section"]  # a table has no recommendation
        linked = f'<a href="#{place}">{point["title"]}</a>' in seen.dom
        assert linked, f"{point['title']} leads nowhere"
        assert f'<section id="{place}"' in seen.dom
    assert "60 of 62 rows were fitted" in content["points"][0]["finding"]
    for words in ("it repeats another row exactly", "it has no loss", "<mfrac>", "Without the", "standard errors"):
        assert words.lower() in seen.dom.lower(), words
    drawn = set(re.findall(r'id="plot-(\w+)-\d+"', seen.dom))
    assert drawn >= {"residuals", "iso_flops", "approaches", "correlations", "profiles", "law_fits", "held_out"}
    table = pl.read_csv(table_report.with_suffix(".csv"))
    assert table.height == 62
    assert table["chinchilla/residual_percent"].null_count() == 2
    assert table["chinchilla/residual_percent"].drop_nulls().abs().max() < 1.5  # type: ignore[operator]
