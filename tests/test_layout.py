"""The root folders are the packages of ``moe_search``: real folders, linked into the import root, no ``__init__``."""

import importlib
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("search", "spaces", "proxies", "scaling", "kernels", "experiments")


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_linked_importable_and_has_no_init(folder: str) -> None:
    link = ROOT / ".src" / "moe_search" / folder
    assert link.is_symlink(), f"missing link .src/moe_search/{folder} -> ../../{folder}"
    assert link.resolve() == ROOT / folder
    assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/__init__.py would shadow packages of that name"
    importlib.import_module(f"moe_search.{folder}")


def test_links_are_exactly_the_folders() -> None:
    links = {path.name for path in (ROOT / ".src" / "moe_search").iterdir() if path.is_symlink()}
    assert links == set(FOLDERS)


def test_wheel_contains_every_folder() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    sources = build["targets"]["wheel"]["sources"]
    for folder in FOLDERS:
        assert folder in build["only-include"], f"{folder} is missing in tool.hatch.build.only-include"
        assert sources[folder] == f"moe_search/{folder}"


def test_tests_are_not_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_import_lint_sees_every_module() -> None:
    graph = grimp.build_graph(*(f"moe_search.{folder}" for folder in FOLDERS), cache_dir=None)
    modules = {
        ".".join(("moe_search", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert modules <= graph.modules, "a folder without __init__.py inside one with it is invisible to import-linter"
