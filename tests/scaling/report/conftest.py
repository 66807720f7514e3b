"""The made-up campaign, fitted once for all tests of the report."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from moe_search.scaling.report.contents import ReportInput

NAME = "report_synthetic"


def synthetic() -> ModuleType:
    """The module beside this one, the same for tests in other folders."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("synthetic.py"))
        assert spec
        assert spec.loader
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def campaign() -> ReportInput:
    return synthetic().campaign()
