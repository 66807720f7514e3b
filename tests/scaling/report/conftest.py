"""The made-up campaign, fitted once for all tests of the report."""

import importlib.util
from pathlib import Path

import pytest

from moe_search.scaling.report.contents import ReportInput


@pytest.fixture(scope="session")
def campaign() -> ReportInput:
    spec = importlib.util.spec_from_file_location("report_synthetic", Path(__file__).with_name("synthetic.py"))
    assert spec
    assert spec.loader
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    return synthetic.campaign(resamples=40, names=("joint", "fine_grained"), candidates=20)
