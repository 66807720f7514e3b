"""``moe-search fit --folds``: laws and regressions on one table, to a reader and as JSON."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.experiments.cli import main
from moe_search.scaling.laws import get_law


@pytest.fixture
def table(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(2), 80)
    frame = pl.DataFrame({"weight/code": shares[:, 0], "weight/web": shares[:, 1]})
    law = get_law("mixture").for_domains(("code", "web"))
    loss = law.predict({"b": 0.15, "g": 0.6, "K/code": 4.5, "K/web": 3.8}, law.variables(frame))
    path = tmp_path / "runs.csv"
    frame.with_columns(loss=pl.Series(loss * np.exp(0.002 * rng.normal(size=80)))).write_csv(path)
    return str(path)


def test_folds_judge_laws_and_regressions(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightgbm", reason="LightGBM is not installed: pip install 'moe-search[lightgbm]'")
    wanted = ("--law", "mixture", "--law", "lightgbm", "--law", "log_linear")
    assert main(["fit", table, *wanted, "--folds", "4", "--resamples", "0", "--json"]) == 0
    printed = capsys.readouterr()
    laws = {one["law"]: one for one in json.loads(printed.out)}
    assert set(laws["lightgbm"]) == {"law", "cross_validation"}
    assert laws["mixture"]["parameters"]["b"]["value"] is not None
    error = {name: one["cross_validation"]["mape"] for name, one in laws.items()}
    assert error["mixture"] < error["log_linear"]
    assert "of these, mixture" in " ".join(printed.err.split())


def test_without_folds_nothing_is_judged_and_a_regression_refused(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", table, "--law", "mixture", "--resamples", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cross_validation"] is None
    assert main(["fit", table, "--law", "lightgbm"]) != 0
    assert "add --folds 5" in " ".join(capsys.readouterr().err.split())
    assert main(["fit", table, "--law", "lightgbm", "--folds", "5"]) != 0
    assert "--law mixture beside it" in " ".join(capsys.readouterr().err.split())
