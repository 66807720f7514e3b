"""Questions to a fit, as a researcher types them: forecasts, speedups of groups, profiles; and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from moe_search.experiments.cli import main

E, A, B, ALPHA, BETA = 1.7, 400.0, 3000.0, 0.31, 0.38
Ask = Callable[..., subprocess.CompletedProcess[str]]


def loss(size: float, tokens: float, f: float = 1.0) -> float:
    """What the simulated runs follow; routed ones (f = 2) have the loss of dense ones of twice the size."""
    return float(E + A * (f * size) ** -ALPHA + B * tokens**-BETA)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense and routed runs, nine sizes at each of six budgets, 0.1 % of noise."""
    rng = np.random.default_rng(0)
    rows = [
        (kind, size, flops / (6 * size), flops, loss(size, flops / (6 * size), f) * np.exp(0.001 * rng.normal()))
        for kind, f in (("dense", 1.0), ("routed", 2.0))
        for flops in np.geomspace(1e18, 1e21, 6)
        for size in 0.095 * (flops / 6) ** 0.551 * np.geomspace(1 / 6, 6, 9)
    ]
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    names = ["kind", "n_active", "tokens", "train_flops", "loss"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)
    return path


@pytest.fixture
def ask(table: Path, environment: dict[str, str]) -> Ask:
    """Run ``moe-search fit`` on the table in a process of its own."""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "moe_search", "fit", str(table), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return ask


def answered(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_forecasts_with_the_irreducible_loss_free_pinned_and_integrated(ask: Ask) -> None:
    asked = ("--at", "n_active=3e10,tokens=6e11", "--asymptote", "1.5", "--resamples", "100")
    done = ask("--law", "chinchilla", "--law", "kaplan", "--where", "kind = 'dense'", *asked, "--json")
    chinchilla, kaplan = answered(done)
    free, pinned, integrated = chinchilla["forecasts"]["treatments"]
    assert [one["asymptote"]["kind"] for one in (free, pinned, integrated)] == ["free", "pinned", "integrated"]
    assert [one["law"] for one in (free, pinned)] == ["chinchilla", "chinchilla:E=1.5"]
    truth = loss(3e10, 6e11)
    for one in (free, integrated):
        (forecast,) = one["forecasts"]
        assert forecast["model"] == "n_active=3e10,tokens=6e11"
        assert forecast["loss"] == pytest.approx(truth, rel=5e-3)
        assert forecast["low_95"] < forecast["low_80"] < forecast["high_80"] < forecast["high_95"]
        assert forecast["low_95"] < truth < forecast["high_95"]
    assert pinned["forecasts"][0]["loss"] < truth - 0.03
    assert pinned["objective"] > 2 * free["objective"]
    assert chinchilla["forecasts"]["models"]["n_active=3e10,tokens=6e11"]["train_flops"] == pytest.approx(6 * 1.8e22)
    (only,) = kaplan["forecasts"]["treatments"]
    assert only["asymptote"]["kind"] == "none"
    assert (chinchilla["speedups"], chinchilla["profiles"]) == (None, None)


@pytest.mark.slow
def test_a_compute_alone_is_split_as_the_law_says_is_best(ask: Ask) -> None:
    done = ask("--law", "chinchilla", "--where", "kind = 'dense'", "--at", "train_flops=1e23", "--resamples", "40")
    assert done.returncode == 0, done.stderr
    assert "train_flops=1e23 is split as chinchilla says is best: n_active = " in done.stderr
    shown = next(line for line in done.stdout.splitlines() if "free: E" in line).split()
    sizes = np.geomspace(1e9, 1e12, 2000)
    best = min(loss(size, 1e23 / (6 * size)) for size in sizes)
    assert float(shown[5]) == pytest.approx(best, rel=5e-3)
    assert shown[-1] == "100"


@pytest.mark.slow
def test_the_speedup_of_twice_the_parameters_is_that_of_the_surface(ask: Ask) -> None:
    groups = ("--compare", "kind = 'dense'", "--compare", "kind = 'routed'")
    options = ("--at", "train_flops=1e20", "--resamples", "60", "--json")
    (fitted,) = answered(ask("--law", "chinchilla", *groups, *options))
    (found,) = fitted["speedups"]
    assert (found["reference"], found["other"]) == ("kind = 'dense'", "kind = 'routed'")
    (point,) = found["points"]
    # both along their runs of the largest compute: at how many tokens a parameter, the runs say
    assert 1.8 < point["speedup"] < 2.2
    assert point["low_95"] < point["speedup"] < point["high_95"]
    assert point["beyond_runs"] == []
    assert any("largest compute" in note for note in found["notes"])


def test_one_condition_is_compared_with_all_other_runs_and_an_asymptote_can_be_shared(ask: Ask) -> None:
    best = "loss = MIN(loss) OVER (PARTITION BY kind, train_flops)"
    options = ("--where", best, "--compare", "kind = 'routed'", "--shared-asymptote", "--resamples", "60")
    done = ask("--law", "compute:E=integrated", *options)
    assert done.returncode == 0, done.stderr
    assert "speedup of kind = 'routed'" in done.stdout
    assert "over NOT (kind = 'routed'), the reference" in done.stdout
    said = [line for line in done.stderr.splitlines() if "irreducible loss is integrated over" in line]
    assert len(said) == 2
    assert said[0].partition(": ")[2] == said[1].partition(": ")[2]


def test_a_profile_stands_beside_the_interval_of_the_resamples(ask: Ask) -> None:
    done = ask("--law", "chinchilla", "--where", "kind = 'dense'", "--profile", "--resamples", "200", "--json")
    (fitted,) = answered(done)
    assert [one["name"] for one in fitted["profiles"]] == ["E", "A", "B", "alpha", "beta"]
    for one in fitted["profiles"]:
        estimate = fitted["parameters"][one["name"]]
        assert one["low"] < estimate["value"] < one["high"]
        assert 0.3 < (one["high"] - one["low"]) / (estimate["high"] - estimate["low"]) < 3
        assert len(one["values"]) == len(one["statistic"])


def test_a_profile_without_an_end_is_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pl.read_csv(table).filter(kind="dense").group_by("train_flops", maintain_order=True).head(1)
    path = table.parent / "few.csv"
    frame.with_columns(loss=pl.col("loss") * pl.Series([1.0, 1.03, 0.97, 1.02, 0.99, 1.01])).write_csv(path)
    assert main(["fit", str(path), "--law", "compute", "--profile", "--resamples", "20"]) == 0
    said = capsys.readouterr()
    assert "profile likelihood" in said.out
    assert "compute: the profile of E has no lower end within its bounds: the runs do not hold it" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--at", "1e24"], "--at: '1e24' is not a column with its number; allowed: NAME=NUMBER,..."),
        (["--at", "flops=1e24"], "--at flops=1e24: there is no column 'flops'"),
        (["--at", "flops=1e24"], "nearest fix: train_flops"),
        (["--at", "tokens=1e9,tokens=2e9"], "tokens is given twice; nearest fix: two --at for two models"),
        (["--at", "n_active=1e10"], "the law chinchilla cannot be asked: there is no column 'tokens'"),
        (["--at", "train_flops=1e22", "--resamples", "0"], "nearest fix: --resamples 1000"),
        (
            ["--at", "train_flops=1e22", "--asymptote", "9"],
            "an irreducible loss of 9 is none: the lowest loss of the runs",
        ),
        (["--asymptote", "1.7"], "--asymptote: an irreducible loss is assumed for forecasts"),
        (["--shared-asymptote"], "--shared-asymptote: an irreducible loss is shared by groups of runs"),
        (["--compare", "kind = 'dense'", "--shared-asymptote"], "nearest fix: --law chinchilla:E=integrated"),
        (["--compare", "kind = 'sparse'"], "--compare: no run meets \"kind = 'sparse'\""),
        (["--compare", "kind = 'dense'", "--compare", "loss > 0"], "--compare: 54 runs are in several groups"),
        (["--compare", "kin = 'dense'"], "there is no column 'kin'"),
    ],
)
def test_what_has_no_answer_is_refused_with_a_way_out(
    table: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["fit", str(table), "--law", "chinchilla", "--resamples", "20", *options]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_card_has_a_line_for_mixtures_and_for_distances_only_where_there_are_any(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fit.json"
    dense = ("--where", "kind = 'dense'", "--resamples", "40")
    assert main(["fit", str(table), "--law", "chinchilla", *dense, "-o", str(path)]) == 0
    capsys.readouterr()
    for flops, said in (("1e24", "x the FLOPs of the largest run"), ("1e19", "")):
        assert main(["recommend", str(path), "--train-flops", flops]) == 0
        card = capsys.readouterr().out
        assert "training" in card
        assert "mixture" not in card
        assert said in card
        assert ("extrapolated" in card) == bool(said)
