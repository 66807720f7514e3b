"""A whole campaign through the command line: what it leaves behind, and that doing it again changes nothing."""

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moe_search.experiments.cli import main
from moe_search.spaces.architecture import Architecture

Here = Callable[..., Any]


@pytest.fixture
def here(finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Read verbs in this very process, in the finished campaign's folder: the JSON that they print."""
    campaign, _ = finished
    monkeypatch.chdir(campaign.folder)
    monkeypatch.setenv("MOE_SEARCH_CACHE", campaign.environment["MOE_SEARCH_CACHE"])

    def read(*arguments: str) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return read


def test_it_ends_with_a_recommendation_a_report_and_the_way_to_the_ui(finished: Any) -> None:
    campaign, done = finished
    results = campaign.folder / "results"
    for said in (
        "Recommended:",
        "95 % interval",
        "held fixed",
        "extrapolated",
        "results/report.html",
        "moe-search ui results",
    ):
        assert said in done.stdout
    assert "Traceback" not in done.stderr
    assert "100%" in done.stderr or "done" in done.stderr, "plain lines of progress where there is no terminal"
    assert "\x1b[" not in done.stdout + done.stderr
    html = (results / "report.html").read_text()
    assert html.lower().startswith("<!doctype html>")
    assert "http" not in html.split("<body")[0].replace("http-equiv", ""), "nothing is fetched"
    recommendation = json.loads((results / "recommendation.json").read_text())
    assert recommendation["best"]["low95"] < recommendation["best"]["loss"] < recommendation["best"]["high95"]
    assert recommendation["best"]["train_flops"] <= 1e18
    Architecture.model_validate_json((results / "recommended" / "architecture.json").read_text())
    assert not list((results / "checkpoints").glob("*")), "finished trials need no checkpoints"


def test_every_proxy_is_a_run_and_learns_something(finished: Any) -> None:
    campaign, _ = finished
    runs = pl.read_parquet(campaign.folder / "results" / "runs.parquet")
    assert (runs["status"] == "finished").all()
    assert (runs["bpb"] < 8).all()
    assert set(runs["router"].unique()) >= {"softmax_topk", "random", "none"}, "controls are among them"
    longest = runs.filter(pl.col("tokens") == runs["tokens"].max())
    assert (longest["loss"] < longest["unigram_loss"]).all()
    assert {"bpb/prose", "weight/code", "loss/lists"} <= set(runs.columns)
    two = runs.filter(pl.col("trial") == 1).sort("tokens")
    assert two.height == 2, "one trunk gives a run for each horizon"
    assert two["bpb"][1] < two["bpb"][0]


def test_status_tells_how_it_stands(finished: Any, here: Here) -> None:
    campaign, _ = finished
    status = here("status", "results")
    assert status["trials"] == {"finished": max(row[0] for row in campaign.table()) + 1}
    assert 0.8 < status["budget"]["spent_share"] <= 1
    assert status["best"]["bpb"] > 0
    assert status["running"] == []
    shown = campaign("status", "campaign.yaml")
    assert shown.returncode == 0
    assert "bits/byte" in shown.stdout


def test_running_it_again_trains_nothing_and_says_the_same(finished: Any) -> None:
    campaign, done = finished
    before, table = (campaign.folder / "results" / "journal.log").read_bytes(), campaign.table()
    again = campaign("run", "campaign.yaml")
    assert again.returncode == 0, again.stderr
    assert campaign.table() == table
    assert (campaign.folder / "results" / "journal.log").read_bytes() == before
    start = again.stdout.index("Recommended:")
    assert again.stdout[start:] == done.stdout[done.stdout.index("Recommended:") :]


def test_mlflow_has_one_parent_and_a_closed_child_for_every_trial(finished: Any) -> None:
    campaign, _ = finished
    with sqlite3.connect(campaign.folder / "results" / "mlflow.db") as database:
        states = dict(database.execute("select status, count(*) from runs group by status").fetchall())
        tags = database.execute("select key, count(*) from tags group by key").fetchall()
        steps = database.execute("select distinct step from metrics where key = 'bpb' order by step").fetchall()
    trials = max(row[0] for row in campaign.table()) + 1
    assert states == {"FINISHED": trials + 1}
    counted = dict(tags)
    for tag in ("status", "n_active", "tokens", "granularity", "activation_ratio", "router", "schedule"):
        assert counted[tag] >= trials
    assert counted["mlflow.parentRunId"] == trials
    assert [step for (step,) in steps] == [12_288, 24_576], "steps are tokens"


def test_the_read_verbs_speak_json(here: Here) -> None:
    plan = here("plan", "campaign.yaml")
    assert plan["initial"][0]["train_flops"] > 0
    assert {"scale", "design", "shape", "seconds", "memory_bytes", "reason"} <= set(plan["initial"][0])
    assert "own" in plan["speed"], "a campaign that has runs predicts times from them"
    fits = here("fit", "results", "--law", "chinchilla", "--cluster", "trial", "--resamples", "50")
    assert fits[0]["law"] == "chinchilla"
    assert {"value", "se", "low", "high"} == set(fits[0]["parameters"]["E"])
    chosen = here("recommend", "results", "--train-flops", "1e19", "--memory-gb", "8")
    assert chosen["best"]["inference_gb"] <= 8
    assert chosen["target"]["train_flops"] == 1e19
    shown = here("corpus", "show", "campaign.yaml")
    assert [row["domain"] for row in shown["domains"]] == ["code", "lists", "prose"]
    counted = here("count", "results/recommended")
    assert counted["n_total"] >= counted["n_active"] > counted["n_active_non_embedding"]


def test_a_fit_file_recommends_without_the_campaign(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "results", "--law", "joint", "--resamples", "50", "-o", "fit.json"]) == 0
    chosen = here("recommend", "fit.json", "--train-flops", "1e18")
    assert (chosen["predictor"], chosen["unit"]) == ("the law joint", "bits per byte")
    assert main(["recommend", "fit.json"]) == 2
    assert "--train-flops" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_report_can_be_written_again() -> None:
    assert main(["report", "results", "-o", "again.html"]) == 0
    assert main(["report", "results/runs.parquet", "--law", "chinchilla", "-o", "table.html"]) == 0
    for name in ("again.html", "table.html"):
        assert "plotly" in Path(name).read_text()


@pytest.mark.usefixtures("here")
def test_a_changed_specification_is_not_mixed_into_old_results(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign, _ = finished
    resolved = (campaign.folder / "results" / "campaign.yaml").read_text()
    for field in ("training.decay_share=0.3", "budget.train_flops=9e10"):
        assert main(["run", "campaign.yaml", "--set", field]) == 2
        assert field.partition("=")[0] in capsys.readouterr().err
    assert (campaign.folder / "results" / "campaign.yaml").read_text() == resolved


def test_changed_text_is_not_mixed_into_old_results(new_campaign: Any, text: Path, tmp_path: Path) -> None:
    shutil.copytree(text, tmp_path / "text")
    campaign = new_campaign()
    specification = campaign.folder / "campaign.yaml"
    specification.write_text(specification.read_text().replace(str(text), str(tmp_path / "text")))
    started = campaign("run", "campaign.yaml", "--set", "budget.max_minutes=0.01")
    assert started.returncode == 3, started.stderr
    original = (tmp_path / "text" / "lists" / "0.txt").read_text()
    (tmp_path / "text" / "lists" / "0.txt").write_text("other words\n" * 500)
    for verb in (("run", "campaign.yaml"), ("worker", "results")):
        refused = campaign(*verb)
        assert refused.returncode == 2, refused.stderr
        assert "error: corpus: the text has changed" in refused.stderr
        assert "nearest fix: restore the text" in refused.stderr
    (tmp_path / "text" / "lists" / "0.txt").write_text(original)
    resumed = campaign("run", "campaign.yaml", "--set", "budget.max_minutes=0.01")
    assert resumed.returncode == 3, resumed.stderr


def written(folder: Path) -> dict[Path, int]:
    """Return when each file below ``folder`` was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_one_proxy_outside_a_campaign(finished: Any) -> None:
    campaign, _ = finished
    (campaign.folder / "one.yaml").write_text(
        "design: {granularity: 2, activation_ratio: 0.5, n_experts: 4, mixture: {prose: 0.5, code: 0.5}}\n"
        "scale: {n_active: 12_000, tokens: 8192}\n"
        "rules: {seq_len: 64, head_dim: 8, d_model_multiple: 8, vocab_size: 512}\n"
        "training: {batch_tokens: 512, warmup_steps: 2, evaluation_tokens: 1024}\n"
        + "corpus:"
        + (campaign.folder / "campaign.yaml").read_text().split("corpus:")[1].split("space:")[0]
    )
    runs = campaign.json("train", "one.yaml", "--tokens", "4096", "--tokens", "8192", "-o", "one")
    assert [run["tokens"] for run in runs] == [4096, 8192]
    checkpoints = written(campaign.folder / "one" / "checkpoints")
    assert checkpoints
    again = campaign.json("train", "one.yaml", "--tokens", "4096", "--tokens", "8192", "-o", "one")
    assert [run["bpb"] for run in again] == [run["bpb"] for run in runs]
    assert written(campaign.folder / "one" / "checkpoints") == checkpoints, "nothing was trained again"
    assert pl.read_parquet(campaign.folder / "one" / "runs.parquet").height == 2


def free_port() -> int:
    """Return a port that nobody uses, below those that systems give to outgoing connections."""
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@pytest.mark.slow
def test_the_ui_serves_the_page_of_runs_until_ctrl_c(finished: Any) -> None:
    campaign, _ = finished
    port = free_port()
    server = campaign.start("ui", "results", "--port", str(port))
    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, "the server has ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                    assert answer.status == 200
                break
            except OSError:  # URLError, or a time-out
                assert time.monotonic() < deadline
                time.sleep(0.5)
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny"
        with urllib.request.urlopen(address, timeout=120) as answer:
            experiment = json.load(answer)["experiment"]
        views = [tag["value"] for tag in experiment["tags"] if tag["key"] == "mlflow.sharedViewState.moe-search"]
        assert json.loads(views[0])["orderByKey"] == "metrics.`bpb`"
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=120)
    assert server.returncode == 130
    assert f"/#/experiments/{experiment['experiment_id']}/runs" in said


@pytest.mark.slow
def test_another_seed_is_another_campaign_and_the_same_seed_the_same(new_campaign: Any) -> None:
    first, second = (new_campaign(seed=1, budget=1.4e10) for _ in range(2))
    for campaign, workers in ((first, "1"), (second, "3")):
        assert campaign("run", "campaign.yaml", "--workers", workers).returncode == 0
    assert first.table() == second.table(), "the number of workers does not matter"
    plans = [new_campaign(seed=seed).json("plan", "campaign.yaml")["initial"] for seed in (1, 1, 2)]
    designs = [[(proxy["scale"], proxy["design"]) for proxy in plan] for plan in plans]
    assert designs[0] == designs[1] != designs[2]
