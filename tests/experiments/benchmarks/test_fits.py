"""``moe-search bench fit`` as a person calls it, and what it says of itself on the points of Besiroglu et al. 2024."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_search.experiments.benchmarks.fits import FitCase, WantedFits, _task, benchmark_fits
from moe_search.experiments.benchmarks.fitters import Contestant, peer, scipy_resamples
from moe_search.experiments.cli import main
from moe_search.experiments.tables import parse_mapping, read_table
from moe_search.scaling.laws import get_law
from moe_search.scaling.resampling import refit

EPOCH = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "epoch-analyzing-chinchilla"
TINY = ("bench", "fit", "--resamples", "20", "--peer-starts", "2", "--repeats", "1")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moe_search", *arguments], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def epoch() -> tuple[str, ...]:
    """Arguments that map the 240 points: the five highest losses are dropped."""
    if not EPOCH.is_dir():
        pytest.skip(f"the table of Besiroglu et al. is not at {EPOCH}")
    return (
        str(EPOCH / "svg_extracted_data.csv"),
        *("--map", 'n_total="Model Size"', "--map", 'train_flops="Training FLOP"'),
        *("--map", "tokens=train_flops/(6*n_total)", "--map", "loss=loss", "--where", "loss < 3.44"),
    )


def test_simulated_runs_are_fitted_beside_scipy(tmp_path: Path) -> None:
    done = command(*TINY, "--law", "upcycling", "--json", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (case,) = report["cases"]
    assert (report["what"], case["law"], case["runs"]) == ("fit", "upcycling", 240)
    rows = {row["name"]: row for row in case["contestants"]}
    assert list(rows) == [
        "ours",
        "ours, without resamples",
        "SciPy BFGS, exact gradient",
        "SciPy BFGS, numerical gradient",
        "SciPy BFGS, resamples alone",
    ]
    assert rows["ours"]["objective"] == min(row["objective"] for row in rows.values())
    assert rows["ours"]["starts"] >= rows["ours"]["reached_best"] > 64
    assert rows["SciPy BFGS, exact gradient"]["starts"] == 2
    assert rows["ours"]["resamples_missed"] == 0
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 for row in rows.values())
    (saved,) = tmp_path.iterdir()
    assert saved.name.endswith("-fit.json")
    assert json.loads(saved.read_text()) == report
    assert "1 of 1: upcycling" in done.stderr


def test_the_240_points_of_epoch_have_their_optimum(epoch: tuple[str, ...]) -> None:
    done = command(*TINY, *epoch, "--json")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert case["runs"] == 240
    rows = {row["name"]: row for row in case["contestants"]}
    assert rows["ours"]["objective"] == pytest.approx(0.001018274018, abs=1e-9)
    expected = {"A": 477.8, "B": 2143, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}
    assert case["parameters"] == pytest.approx(expected, rel=3e-4)
    assert set(case["absent"]) == {"chinchilla", "simple-scaling-laws"}


def test_no_resample_ends_worse_than_bfgs_from_the_same_start(epoch: tuple[str, ...]) -> None:
    mapping = parse_mapping([epoch[i + 1] for i, word in enumerate(epoch) if word == "--map"])
    frame = read_table(Path(epoch[0]), mapping=mapping, where=epoch[-1]).frame
    task = _task("chinchilla", frame, 0)
    found = refit(task.problem, task.optimum, task.resamples(200)).objective
    theirs = scipy_resamples(task, 200).resampled
    assert theirs is not None
    assert (found <= theirs * (1 + 1e-5)).all()
    assert (theirs > found * (1 + 1e-4)).sum() >= 1  # and BFGS does stop short


def test_what_is_counted() -> None:
    one = Contestant("ours", 1.0, 1.0, 1.0, ends=np.array([1.0, 1.0 + 1e-6, 1.1]), resampled=np.array([2.0, 3.1]))
    two = Contestant("other", 1.0, 1.0, 1.0, ends=np.array([1.5, 0.9]), resampled=np.array([2.5, 3.0]))
    three = Contestant("third", 1.0, 1.0, 1.2)
    case = FitCase(get_law("chinchilla"), 240, {}, [one, two, three], {})
    assert case.best == 0.9
    assert [case.reached(c) for c in (one, two, three)] == [0, 1, None]
    assert [case.missed(c) for c in (one, two, three)] == [1, 1, None]


def test_a_table_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--law", "chinchilla"]) == 0
    shown = capsys.readouterr().out
    for text in ("chinchilla, 5 parameters: 240 runs, 240 simulated runs", "at best", "needs --peer-python"):
        assert text in shown


def answering(folder: Path, answer: Any) -> Path:
    """An interpreter that answers the same whatever it is told to run."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\nprint({json.dumps(answer)!r})\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_another_package_is_judged_by_the_same_number(tmp_path: Path) -> None:
    task = _task("chinchilla", None, 0)
    natural = {name: float(v[0]) for name, v in task.problem.law.natural(task.optimum.theta[None, :]).items()}
    end = [natural[name] for name in ("E", "A", "B", "alpha", "beta")]
    answer = {
        "seconds": 2.0,
        "cpu_seconds": 2.0,
        "predicted": np.exp(task.problem.log_y + task.optimum.residual).tolist(),
        "ends": [end, [-9.0, *end[1:]]],
        "resamples": 0,
        "note": "",
        "version": "1",
    }
    found = peer("chinchilla", answering(tmp_path, answer), task, 10)
    assert isinstance(found, Contestant)
    assert found.objective == pytest.approx(task.optimum.objective)
    assert found.ends is not None
    assert found.ends[0] == pytest.approx(task.optimum.objective)
    assert found.ends[1] > 1


def test_a_package_that_fails_is_absent_with_its_last_word(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named chinchilla' >&2\nexit 1\n")
    python.chmod(0o755)
    wanted = WantedFits(laws=("chinchilla",), resamples=0, repeats=1, peer_starts=0, peer_python=python)
    (case,) = benchmark_fits(wanted, None, "", lambda _: None).cases
    assert set(case.absent.values()) == {"No module named chinchilla"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "fit", "--law", "chinchila"], "unknown law 'chinchila'"),
        (["bench", "fit", "--peer-python", "nowhere/python"], "--peer-python: nowhere/python is no interpreter"),
        (["bench", "fit", "--peer-starts", "9999"], "--peer-starts: 9999; allowed: 0 to"),
        (["bench", "fit", "--store"], "--store: bench fit has no such option; allowed: bench kernels"),
        (["bench", "fit", "--tokens", "4096"], "--tokens: bench fit has no such option"),
        (["bench", "step", "table.csv"], "RUNS: bench step has no such option; allowed: bench fit"),
        (["bench", "kernels", "--law", "joint"], "--law: bench kernels has no such option"),
        (["bench", "fit", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert shown.out == ""
