"""The commands of the documentation on published tables, where those are beside the repository."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from moe_search.experiments.cli import main
from moe_search.scaling.runs import read_runs

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def published(name: str) -> Path:
    """Return a published table, or skip the test."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the published table is not at {path}")
    return path


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command as it is typed, and return the JSON that it printed."""
    program, *arguments = shlex.split(command)
    assert program == "moe-search"
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_the_example_of_a_stranger_s_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chinchilla.csv").symlink_to(published("epoch-analyzing-chinchilla/svg_extracted_data.csv"))
    command = """moe-search fit chinchilla.csv --law chinchilla --map 'n_total="Model Size"'
        --map 'train_flops="Training FLOP"' --map 'tokens=train_flops/(6*n_total)' --map 'loss=loss'
        --holdout 'train_flops > 1e21' --json"""
    (fitted,) = ran(command, capsys)
    names = ["law", "n_runs", "n_holdout", "objective", "parameters", "derived", "starts", "condition_number"]
    assert {*names, "unidentifiable", "at_bound", "warnings", "holdout", "seconds"} <= set(fitted)
    assert fitted["n_runs"] + fitted["n_holdout"] == 245
    assert fitted["warnings"] == []
    assert set(fitted["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert set(fitted["parameters"]["E"]) == {"value", "se", "low", "high"}
    worst = read_runs("chinchilla.csv").frame["loss"].sort()[-5]  # the published refit leaves five points out
    (fitted,) = ran(f"{command} --where 'loss < {worst}'", capsys)
    assert fitted["n_runs"] + fitted["n_holdout"] == 240
    assert fitted["holdout"]["mape"] == pytest.approx(1.05, abs=0.015)


def test_curves_of_routed_models_become_a_row_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = published("deepmind-scaling-laws-for-routing/curves.csv.gz")
    done = ran(
        f"""moe-search import csv {curves} --last-of hyper_id --where 'loss_validation < 99'
        --map n_active=dense_parameter_count --map n_total=total_parameter_count --map 'tokens=524288 * step'
        --map loss=loss_validation -o {tmp_path}/runs.parquet --json""",
        capsys,
    )
    assert (done["rows_read"], done["rows"]) == (5799, 223)
    assert done["warnings"] == []
    assert "router_type" in done["carried"]
    frame = read_runs(tmp_path / "runs.parquet").frame
    assert frame["step"].min() >= 240_000  # type: ignore[operator]


def test_mixtures_and_losses_in_two_files_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixtures, losses = published("regmix/train_mixture_1m.csv"), published("regmix/train_pile_loss_1m.csv")
    done = ran(
        f"""moe-search import csv {mixtures} {losses} --join index --map 'weight/arxiv=train_the_pile_arxiv'
        --map 'loss/pile_cc="metric/the_pile_pile_cc_val_loss"' --map 'loss="loss/pile_cc"' --map tokens=1e9
        --map n_active=1e6 -o {tmp_path}/runs.parquet --json""",
        capsys,
    )
    assert (done["rows_read"], done["rows"]) == (512, 512)
    assert done["warnings"] == []
    assert len(done["carried"]) == 1 + 17 + 13
