"""Every page: its commands run, its links lead somewhere, and nothing on it belongs to one machine."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_search.scaling.laws import law_names

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "decisions.md")


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("tutorial")])
def test_the_commands_run(
    page: str, blocks: Callable[[str], list[Any]], write: Callable[[Any], None], run: Callable[[Any], None]
) -> None:
    for block in blocks(page):
        if block.file and not block.file.endswith(".py"):
            write(block)
        elif "test" in block.marks:
            run(block)


def test_the_commands_on_an_mlflow_store(
    blocks: Callable[[str], list[Any]], mlflow_store: None, run: Callable[[Any], None]
) -> None:
    found = [block for block in blocks("how-to/own-runs.md") if "mlflow" in block.marks]
    assert found
    for block in found:
        run(block)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert not path.startswith("http"), f"{target}: pages are read offline"
        file = (DOCS / page).parent / path if path else DOCS / page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES)
def test_nothing_belongs_to_one_machine(page: str) -> None:
    text = (DOCS / page).read_text()
    assert not re.search(r"(?<![\w.~])/(work|tmp|root|home/\w)", text)
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_every_page_is_on_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    for page in PAGES:
        assert page == "index.md" or f"({page})" in index, page


def test_every_file_that_a_page_names_is_there() -> None:
    root = DOCS.parent
    for page in PAGES:
        for name in re.findall(
            r"`((?:spaces|kernels|scaling|proxies|search|experiments|tests)/[\w/.]+\.(?:py|yaml|txt))`",
            (DOCS / page).read_text(),
        ):
            assert (root / name).exists() or "NAME" in name or "example" in name, f"{page}: {name}"


def test_every_law_says_what_it_reads() -> None:
    text = (DOCS / "reference" / "conventions.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(law_names())
