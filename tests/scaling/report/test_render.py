"""The page as text: complete, offline, escaped, reproducible, and sparse where the table is."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from moe_search.scaling.report import ReportInput, render_report
from moe_search.scaling.report.figures import figures
from moe_search.scaling.report.machine import script_json
from moe_search.scaling.report.sections import SECTIONS

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Elements, attributes and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def block(html: str, name: str) -> dict[str, object]:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def html(campaign: ReportInput) -> str:
    return render_report(campaign)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_sections_in_order_and_nothing_missing(page: Page) -> None:
    assert [attributes["id"] for attributes in page.having("section")] == [section.key for section in SECTIONS]
    assert "Not in this report" not in page.text


def test_every_figure_has_a_place_and_a_drawing(html: str, page: Page) -> None:
    plots = block(html, "moe-search-figures")["plots"]
    assert isinstance(plots, dict)
    places = {attributes["id"] for attributes in page.having("div") if str(attributes.get("id")).startswith("plot-")}
    assert places == {f"plot-{key}" for key in plots}
    assert {key.rsplit("-", 1)[0] for key in plots} == set(figures())
    for plot in plots.values():
        assert any(len(trace.get("x") or ()) for trace in plot["data"])


def test_axes_are_explained(html: str) -> None:
    plots = block(html, "moe-search-figures")["plots"]
    assert isinstance(plots, dict)
    for key, plot in plots.items():
        axes = [axis for name, axis in plot["layout"].items() if name.startswith("xaxis")]
        assert any(axis.get("title", {}).get("text") for axis in axes) or all(
            not axis.get("visible", True) for axis in axes
        ), key


def test_nothing_is_fetched(html: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "action", "data"):
            assert not re.match(r"(?i)\s*(https?:|//)", attributes.get(name) or ""), (tag, attributes)
    policy = next(a["content"] for a in page.having("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_is_there_once(html: str) -> None:
    assert html.count("* plotly.js v") == 1
    assert len(html.encode()) < 7e6


def test_the_same_input_gives_the_same_page(campaign: ReportInput, html: str) -> None:
    assert render_report(dataclasses.replace(campaign)) == html


def test_the_answer_says_integers_interval_constraint_and_distance(campaign: ReportInput, page: Page) -> None:
    best = campaign.recommendation.best  # type: ignore[union-attr]
    for words in (
        f"{best.architecture.n_layers} layers of width {best.architecture.d_model}",
        f"{best.loss:.3f}",
        f"95 % interval {best.low95:.3f} to {best.high95:.3f}",
        "equal training compute".capitalize(),
        "of the largest run behind it",
        "What would change the decision",
    ):
        assert words in page.text, words


def test_failures_are_rows_with_reasons(campaign: ReportInput, page: Page) -> None:
    lost = campaign.frame.filter(pl.col("status") != "finished")
    assert not lost.is_empty()
    for reason in lost["message"].unique().to_list():
        assert reason in page.text


def test_the_checklist_names_equation_convention_and_withheld_parameters(campaign: ReportInput, page: Page) -> None:
    for fit in campaign.fits:
        assert fit.law.equation in page.text
        for group in fit.unidentifiable:
            assert group.reason in page.text
    assert any(fit.unidentifiable for fit in campaign.fits)
    assert "withheld" in page.text


def test_the_data_block_has_the_numbers(campaign: ReportInput, html: str) -> None:
    data = block(html, "moe-search-data")
    assert data["format"] == 1
    assert data["runs"]["bpb"] == campaign.frame["bpb"].to_list()  # type: ignore[index]
    assert [fit["law"] for fit in data["fits"]] == [fit.law.name for fit in campaign.laws]  # type: ignore[index,union-attr]
    assert data["recommendation"]["best"]["loss"] == campaign.recommendation.best.loss  # type: ignore[index,union-attr]
    assert data["held_out"]["chosen"] == campaign.comparison.chosen  # type: ignore[index,union-attr]


def test_the_csv_is_the_table(campaign: ReportInput, page: Page) -> None:
    link = next(attributes for attributes in page.having("a") if "download" in attributes)
    content = base64.b64decode(str(link["href"]).partition("base64,")[2])
    back = pl.read_csv(io.BytesIO(content))
    assert back.height == campaign.frame.height
    assert back["bpb"].to_list() == pytest.approx(campaign.frame["bpb"].to_list())
    assert json.loads(back["experts_per_layer"][0]) == campaign.frame["experts_per_layer"][0].to_list()


def test_text_from_outside_stays_text(campaign: ReportInput) -> None:
    frame = campaign.frame.with_columns(
        pl.lit(HOSTILE).alias("router"),
        pl.when(pl.col("status") != "finished").then(pl.lit(HOSTILE)).alias("message"),
        pl.lit(HOSTILE).alias("device"),
    ).rename({"weight/code": f"weight/{HOSTILE}"})
    hostile = dataclasses.replace(
        campaign,
        title=HOSTILE,
        frame=frame,
        effects=[dataclasses.replace(effect, knob=HOSTILE) for effect in campaign.effects or ()],
        spec_yaml=HOSTILE,
        provenance={HOSTILE: HOSTILE},
        notes=[HOSTILE],
    )
    html = render_report(hostile)
    page = Page(html)
    assert page.having("img") == []
    assert len(page.having("script")) == 4
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE in page.text
    # plotly reads a little HTML itself: what reaches it must be escaped already
    drawn = json.dumps(block(html, "moe-search-figures"))
    assert "<img" not in drawn
    assert "<script" not in drawn
    assert "&lt;img" in drawn


def test_script_json_cannot_close_its_element() -> None:
    value = {"</script>": "<!-- <script> & \u2028"}
    text = script_json(value)
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def outside(**columns: list[object]) -> str:
    return render_report(ReportInput(title="Somebody's table", frame=pl.DataFrame(columns)))


def test_a_table_without_moe_columns() -> None:
    html = outside(n_active=[1e8, 2e8, 4e8] * 2, tokens=[1e9] * 3 + [4e9] * 3, loss=[3.5, 3.3, 3.1, 3.2, 3.0, 2.8])
    page = Page(html)
    assert "Not in this report" in page.text
    assert "no experts per layer" in page.text
    assert "no mixture weights" in page.text
    plots = block(html, "moe-search-figures")["plots"]
    assert plots == {}, "no cost, no laws, no designs: nothing to draw, and no empty plot"
    assert "Somebody's table" in page.text


def test_a_table_with_cost_and_nothing_else() -> None:
    html = outside(train_flops=[1e18, 2e18, None], loss=[3.0, 2.9, 2.8], router=[1, 2, 3])
    plots = block(html, "moe-search-figures")["plots"]
    assert isinstance(plots, dict)
    assert list(plots) == ["loss_against_flops-0"]
    assert "1 run without a usable loss or size" in Page(html).text


@pytest.mark.parametrize("columns", [{"loss": []}, {"loss": [None, None]}, {"n_active": [1, 2]}])
def test_a_table_without_a_single_usable_run(columns: dict[str, list[object]]) -> None:
    page = Page(outside(**columns))
    assert "No run finished with a loss." in page.text


@pytest.mark.parametrize(
    "removed",
    ["fits", "comparison", "recommendation", "effects", "budget", "spec_yaml"],
)
def test_every_part_may_be_missing(campaign: ReportInput, removed: str) -> None:
    page = Page(render_report(dataclasses.replace(campaign, **{removed: () if removed == "fits" else None})))
    assert campaign.title in page.text


def test_fits_with_their_own_holdout_need_no_comparison(campaign: ReportInput) -> None:
    assert campaign.comparison
    alone = dataclasses.replace(campaign, fits=campaign.comparison.fits, comparison=None)
    page = Page(render_report(alone))
    assert "Predicted against observed" in page.text
    assert alone.laws[0].law.name == alone.held_out[0][0].law.name
