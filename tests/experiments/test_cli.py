"""The command itself: it answers at once, it has the verbs of the design, and data goes to stdout alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import moe_search
from moe_search.experiments.cli import main
from moe_search.experiments.cli.app import app
from moe_search.experiments.spec.loading import load_spec

VERBS = (
    "init",
    "corpus",
    "plan",
    "run",
    "worker",
    "status",
    "train",
    "fit",
    "audit",
    "import",
    "replay",
    "recommend",
    "report",
    "export",
    "count",
    "doctor",
    "bench",
    "ui",
)
HEAVY = (
    "torch",
    "pytorch_lightning",
    "mlflow",
    "botorch",
    "gpytorch",
    "optuna",
    "plotly",
    "polars",
    "numpy",
    "scipy",
)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys;"
        "from moe_search.experiments.cli import main;"
        f"code = main({arguments});"
        "print(code,"
        f" [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, *loaded = done.stderr.split(maxsplit=1)
    assert exit_code == "0"
    assert loaded == ["[]\n"]


def test_the_verbs_are_those_of_the_design() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert sorted(names) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Example" in said
    assert f"moe-search {verb}" in said


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"moe-search {moe_search.__version__}"


def test_count_prints_the_names_of_the_design(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "Qwen3-30B-A3B", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["n_total"] == pytest.approx(30.53e9, rel=2e-3)
    assert counted["n_total"] - counted["n_total_non_embedding"] == 2 * 151_936 * 2048
    assert counted["n_active"] > counted["n_active_non_embedding"]
    assert counted["flops_per_token"]["train"] == 3 * counted["flops_per_token"]["forward"]
    assert set(counted["memory_bytes"]) >= {"weights", "gradients", "optimizer", "activations", "kv_cache"}
    assert len(counted["layers"]) == 48
    assert sum(layer["parameters"] for layer in counted["layers"]) + 2048 == counted["n_total_non_embedding"]


def test_count_reads_files_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sketch = tmp_path / "sketch.yaml"
    sketch.write_text(
        "design: {granularity: 2, activation_ratio: 0.25, n_experts: 8, mixture: {a: 1}}\n"
        "scale: {n_active: 1e6, tokens: 1}\nrules: {vocab_size: 1000}\n"
    )
    assert main(["count", str(sketch), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["n_active_non_embedding"] == pytest.approx(1e6, rel=0.1)
    assert main(["export", "hf", "Qwen3-30B-A3B", "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["count", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_total"] == 30_532_122_624


def test_count_reads_what_train_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "design: {ffn: dense, mixture: {prose: 1}}\nscale: {n_active: 100_000, tokens: 1000}\nrules: {head_dim: 16}\n"
    )
    (tmp_path / "sketch.yaml").write_text(text)
    (tmp_path / "train.yaml").write_text(f"{text}corpus: {{tokenizer: bytes}}\ntraining: {{warmup_steps: 4}}\n")
    counts = []
    for name in ("sketch.yaml", "train.yaml"):
        assert main(["count", str(tmp_path / name), "--json"]) == 0
        counts.append(json.loads(capsys.readouterr().out))
    assert counts[0] == counts[1]


def test_count_lists_the_published_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) > 40
    assert "DeepSeek-V3" in listed


def test_count_draws_a_table_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "DeepSeek-V3"]) == 0
    said = capsys.readouterr().out
    for text in ("671B", "8 of 256 experts + 1 shared", "0-2", "3-60", "FLOPs per token"):
        assert text in said


def test_init_writes_a_campaign_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--preset", "cpu"]) == 0
    text = (tmp_path / "mine" / "campaign.yaml").read_text()
    assert text.count("#") > 5, "the comments are kept"
    spec = load_spec(tmp_path / "mine")
    assert spec.name == "mine"
    assert spec.folder == tmp_path / "mine" / "results"
    assert main(["init", "mine"]) == 2
    assert main(["init", "mine", "--force"]) == 0
    assert main(["init"]) == 0
    assert load_spec(tmp_path / "campaign.yaml").folder == tmp_path / "results"


def test_plan_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "."]) == 0
    assert main(["plan", "campaign.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(proxy["train_flops"] for proxy in plan["initial"]) == pytest.approx(plan["initial_flops"])
    assert plan["initial_flops"] + plan["remaining_flops"] == pytest.approx(plan["budget_flops"])
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.yaml"]


def test_a_table_of_anybody_s_is_fitted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = ["Size,Compute,Loss"]
    rows += [
        f"{n:g},{6 * n * d:g},{1.7 + 400 / n**0.34 + 410 / d**0.28:.6f}"
        for n in (1e7, 1e8, 1e9)
        for d in (1e9, 1e10, 1e11)
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    mapping = [
        f"--map={entry}"
        for entry in ("n_total=Size", "train_flops=Compute", "tokens=train_flops/(6*n_total)", "loss=Loss")
    ]
    assert main(["fit", str(path), "--law", "chinchilla", *mapping, "--resamples", "50", "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)[0]
    assert fitted["n_runs"] == 9
    assert fitted["parameters"]["E"]["value"] == pytest.approx(1.7, rel=0.02)
    fit_file = ["-o", str(tmp_path / "fit.json")]
    assert main(["fit", str(path), "--law", "chinchilla", *mapping, "--resamples", "50", *fit_file]) == 0
    capsys.readouterr()
    target = ["recommend", str(tmp_path / "fit.json"), "--train-flops", "1e21"]
    assert main([*target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unit"] == "nats per token"
    assert main(target) == 0
    said = capsys.readouterr().out
    assert "nats/token" in said
    assert "bits/byte" not in said
    assert main(["fit", str(path), "--law", "chinchilla", "--map=nonsense"]) == 2
    assert "--map" in capsys.readouterr().err


def test_laws_with_one_holdout_are_told_apart_or_said_not_to_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = ["n_total,tokens,train_flops,loss"]
    rows += [
        f"{n:g},{d:g},{6 * n * d:g},{1.7 + 400 / n**0.34 + 410 / d**0.28 + 0.002 * ((i + j) % 3 - 1):.6f}"
        for i, n in enumerate((1e7, 4e7, 1e8, 4e8, 1e9, 2e9))
        for j, d in enumerate((1e9, 3e9, 1e10, 1e11))
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    laws = ["--law", "compute", "--law", "chinchilla", "--law", "gadre", "--resamples", "20"]
    assert main(["fit", str(path), *laws, "--holdout", "train_flops > 2e19", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 3
    said = [line for line in captured.err.splitlines() if ": held-out error " in line]
    assert [line.split(":")[0] for line in said] == ["gadre", "compute"]
    assert all("above chinchilla's (95 % interval " in line for line in said)
    assert "which is more than chance" in said[1]
    assert main(["fit", str(path), *laws[:4], "--resamples", "0", "--holdout", "train_flops > 2e19"]) == 0
    assert "compute: held-out error " in capsys.readouterr().err
    assert main(["fit", str(path), *laws[:4], "--resamples", "0"]) == 0
    assert "held-out error " not in capsys.readouterr().err
