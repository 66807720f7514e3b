"""The examples of the pages on extending: added to the registries as they stand, they work and pass their tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.laws import get_law

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


def test_the_law_in_yaml_is_fitted_to_what_it_describes(folder: Path, blocks: Callable[[str], list[Any]]) -> None:
    (block,) = [block for block in blocks("how-to/add-a-law.md") if block.language == "yaml"]
    (folder / "over_training.yaml").write_text(block.text)
    law = get_law("over_training.yaml")
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(7, 9, 60), "tokens": 10 ** rng.uniform(9.5, 11.5, 60)})
    truth = {"E": 1.7, "A": 400.0, "B": 1800.0, "alpha": 0.33, "beta": 0.36, "c": 0.2}
    loss = law.predict(truth, law.variables(frame)) * np.exp(1e-4 * rng.normal(size=60))
    fitted = fit(law, frame.with_columns(loss=pl.Series(loss)), resamples=0)
    assert fitted.parameters["E"].value == pytest.approx(1.7, rel=0.01)
    assert fitted.parameters["alpha"].value == pytest.approx(0.33, rel=0.03)


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
