"""``moe-search replay`` as a person and as a script sees it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from moe_search.experiments.cli.main import main

TASK = {
    "name": "made",
    "table": "runs.csv",
    "config": {"mixture": ["web", "code"], "numeric": [{"column": "lr", "log": True}]},
    "fidelity": {"column": "size", "ladder": ["1M", "1B"], "cost": [0.001, 1]},
    "objective": "loss",
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    web, rate = rng.uniform(size=30), 10 ** rng.uniform(-4, -2, 30)
    good = 0.1 * (web - 0.7) ** 2 + 0.03 * (np.log10(rate) + 3) ** 2
    frames = [
        pl.DataFrame({"web": web, "code": 1 - web, "lr": rate, "size": size, "loss": level * np.exp(good)})
        for size, level in (("1M", 4.0), ("1B", 2.5))
    ]
    pl.concat(frames).write_csv(tmp_path / "runs.csv")
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(TASK))
    return path


def test_json_says_what_every_policy_reached_and_paid(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(task), "--policy", "decision", "--policy", "random", "--seeds", "3"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["policies"]
    assert list(printed) == ["decision", "random"]
    ours = printed["decision"]
    fields = {"reached", "mean_cost", "median_cost", "regret_at", "seconds_per_suggestion", "evaluations"}
    assert set(ours) == fields
    assert set(ours["regret_at"]) == {"1", "2", "4", "8"}
    assert set(ours["evaluations"]) == {"1M", "1B"}
    assert ours["reached"] == 1
    assert 1 < ours["mean_cost"] < printed["random"]["mean_cost"]
    assert printed["random"]["evaluations"]["1M"] == 0


def test_what_is_minimised_may_be_negative(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task.write_text(task.read_text().replace("objective: loss", "objective: loss - 100"))
    assert main(["replay", str(task), "--policy", "decision", "--seeds", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policies"]["decision"]["reached"] == 1


def test_a_person_sees_a_table(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(task), "--policy", "random", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "30 designs at 1B" in shown
    assert "random" in shown
    assert "100%" in shown


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        ("objective: loss", ["--policy", "tea"], "unknown policy 'tea'"),
        ("objective: lss", [], "there is no column 'lss'"),
        ("objectiv: loss", [], "objectiv"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    task: Path, capsys: pytest.CaptureFixture[str], text: str, arguments: list[str], sentence: str
) -> None:
    task.write_text(task.read_text().replace("objective: loss", text))
    assert main(["replay", str(task), *arguments]) == 2
    printed = capsys.readouterr().err
    assert sentence in " ".join(printed.split())
    assert "Traceback" not in printed
