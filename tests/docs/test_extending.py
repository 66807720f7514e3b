"""The examples of the pages on extending: added to the registries as they stand, they work and pass their tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REGISTRIES = {
    "how-to/add-a-law.md": ("scaling.laws", "scaling/laws", ["tests/scaling/laws/test_laws.py", "-k", "tokens_alone"]),
    "how-to/add-a-router.md": ("proxies.model.routers", "proxies/model/routers", []),
    "how-to/add-a-source.md": ("proxies.corpus.sources", "proxies/corpus/sources", []),
}


@pytest.mark.parametrize("page", REGISTRIES)
def test_the_example_is_found_and_passes_its_test(
    page: str, docs: Path, folder: Path, blocks: Callable[[str], list[Any]], write: Callable[[Any], None]
) -> None:
    package, place, further = REGISTRIES[page]
    files = [block for block in blocks(page) if block.file]
    assert len(files) == 2, "a member and its test"
    for block in files:
        write(block)
    (folder / "example_member.py").write_text(
        f"import moe_search.{package} as package\npackage.__path__.append({str(folder / place)!r})\n"
    )
    tests = [str(folder / block.file) for block in files if block.file.startswith("tests/")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "example_member", "-p", "no:cacheprovider", *tests, *further],
        cwd=docs.parent,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize("page", REGISTRIES)
def test_the_example_is_in_the_style_of_the_house(
    page: str, docs: Path, folder: Path, blocks: Callable[[str], list[Any]], write: Callable[[Any], None]
) -> None:
    for block in blocks(page):
        if block.file:
            write(block)
            for command in (["check", "--ignore", "INP"], ["format", "--check", "--diff"]):
                ruff = [sys.executable, "-m", "ruff", *command, "--config", str(docs.parent / "pyproject.toml")]
                if block.file.startswith("tests/") and command[0] == "check":
                    ruff += ["--ignore", "D,S,PLR"]
                done = subprocess.run([*ruff, block.file], cwd=folder, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
