"""A package that is imported when it is needed."""

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_search.proxies.training.lean_lightning import forget, no_collection, postpone

NAME = "a_library_of_the_tests"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that exports a class of a submodule, and says in ``sys`` when it is executed."""
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "base.py").write_text("class Base: ...\n")
    (folder / "about.py").write_text("__version__ = '7'\n")
    (folder / "__init__.py").write_text(f"import sys\nsys.{NAME} = True\nfrom {NAME}.base import Base\nrest = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    forget(NAME)
    sys.__dict__.pop(NAME, None)


def is_executed() -> bool:
    return hasattr(sys, NAME)


@pytest.mark.usefixtures("library")
def test_the_rest_of_a_postponed_package_comes_when_it_is_asked_for() -> None:
    assert postpone(NAME, {"Base": f"{NAME}.base", "__version__": f"{NAME}.about"})
    package = importlib.import_module(NAME)
    base = package.Base
    assert package.__version__ == "7"
    assert not hasattr(package, "__wrapped__"), "tools look for such names in every module"
    assert not is_executed()
    assert package.rest == 5
    assert is_executed()
    assert package.Base is base
    with pytest.raises(AttributeError):
        _ = package.nothing


@pytest.mark.usefixtures("library")
def test_what_is_imported_or_missing_is_not_postponed() -> None:
    importlib.import_module(NAME)
    assert not postpone(NAME, {})
    assert not postpone("no_such_library_anywhere", {})
    forget(NAME)
    assert postpone(NAME, {})


def test_the_collector_is_left_as_it_was() -> None:
    with no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
