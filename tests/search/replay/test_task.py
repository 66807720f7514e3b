from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from moe_search.search.replay.task import ReplayTask, load_table
from moe_search.spaces.errors import InvalidInputError

TASK: dict[str, Any] = {
    "name": "t",
    "table": "runs.csv",
    "config": {"mixture": ["a", "b"], "numeric": [{"column": "lr", "log": True}], "categorical": ["router"]},
    "fidelity": {"column": "size", "ladder": [1, 2.5], "cost": [0.1, 1]},
    "objective": '"val loss" + 1',
    "noise_columns": ["seed"],
}
ROWS = {
    "a": [0.25, 0.25, 0.25, 1.0, 1.0],
    "b": [0.755, 0.755, 0.755, 0.0, 0.0],
    "lr": [0.1, 0.1, 0.1, 0.001, 0.001],
    "router": ["x", "x", "x", "y", "y"],
    "size": [1.0, 1.0, 2.5, 1.0, 9.0],
    "seed": [0, 1, 0, 0, 0],
    "val loss": [2.0, 4.0, 1.5, 5.0, 7.0],
    "flops": [3.0, 5.0, 40.0, 4.0, 100.0],
}


def load(folder: Path, rows: dict[str, Any] = ROWS, **changes: Any) -> Any:
    pl.DataFrame(rows).write_csv(folder / "runs.csv")
    return load_table(ReplayTask.model_validate({**TASK, **changes}), folder)


def test_rows_become_designs_at_fidelities(tmp_path: Path) -> None:
    table = load(tmp_path)
    assert table.fidelities == ("1", "2.5")
    np.testing.assert_allclose(table.loss, [[4.0, 6.0], [2.5, np.nan]])  # repeats are averaged, the objective is + 1
    np.testing.assert_allclose(table.features[:, :2] ** 2, [[0.25 / 1.005, 0.755 / 1.005], [1, 0]])
    np.testing.assert_allclose(table.features[:, 2], [1, 0])
    np.testing.assert_allclose(((table.features[0, 3:] - table.features[1, 3:]) ** 2).sum(), 1)
    assert table.options(0).tolist() == [0, 1]
    assert table.options(1).tolist() == [0]


def test_costs_may_be_a_column(tmp_path: Path) -> None:
    table = load(tmp_path, fidelity={**TASK["fidelity"], "cost": "flops"})
    np.testing.assert_allclose(table.cost, [[0.1, 0.1], [1.0, np.nan]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": '"train loss"'}, "there is no column 'train loss'"),
        ({"fidelity": {**TASK["fidelity"], "ladder": [1, 3]}}, "no run with a loss has size = 3.*allowed: 1, 2.5, 9"),
        ({"fidelity": {**TASK["fidelity"], "cost": "router"}}, "no positive numbers"),
        ({"config": {"mixture": ["a", "lr"]}}, "the mixture of a design sums to"),
        ({"config": {"numeric": [{"column": "router"}]}}, "does not hold numbers alone"),
        ({"where": "size > 10"}, "no run with a loss has size = 1"),
        ({"table": "none.csv"}, "there is no file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        load(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {}},
        {"fidelity": {**TASK["fidelity"], "cost": [0.1]}},
        {"fidelity": {**TASK["fidelity"], "cost": [0.1, 2]}},
        {"fidelity": {**TASK["fidelity"], "ladder": [1, 1]}},
        {"objectives": "loss"},
    ],
)
def test_a_task_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((InvalidInputError, ValidationError)):
        ReplayTask.model_validate({**TASK, **changes})
