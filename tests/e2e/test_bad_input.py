"""Every mistake that the design names: exit code, one sentence with a way out, no traceback, nothing half-written."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from moe_search.experiments.cli import main

Said = tuple[int, str, str]


@pytest.fixture
def campaign(new_campaign: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A campaign's folder as the working directory, and the command in this very process: it has nothing to start."""
    made = new_campaign()
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("MOE_SEARCH_CACHE", made.environment["MOE_SEARCH_CACHE"])

    def command(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    made.here = command
    return made


def assert_one_sentence(said: Said, *says: str, code: int = 2) -> None:
    returned, out, err = said
    assert returned == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for text in says:
        assert text in lines[0], lines[0]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("space.granularty=2", ("--set space.granularty", "unknown key", "did you mean granularity?")),
        ("space.activation_ratio=1.5", ("space.activation_ratio", "<= activation_ratio <= 1")),
        ("space.mixture={prose: 0.5, code: 0.4}", ("space.mixture", "sum to 0.9", "prose: 0.5556")),
        ("space.mixture={prose: 1.2, code: -0.2}", ("weight of code is -0.2",)),
        ("objective.weights={prose: 0.5}", ("objective.weights", "sum to 0.5")),
        ("shape.head_dim=7", ("d_model", "allowed", "nearest fix")),
        ("ladder.sizes=[]", ("ladder.sizes", "the ladder is empty")),
        ("ladder.tokens=[]", ("ladder.tokens", "the ladder is empty")),
        ("budget.train_flops=1e6", ("budget", "do not pay for one proxy", "at least")),
        ("budget.train_flops=-1", ("budget.train_flops", "0 < train_flops")),
        ("corpus.source.prose=[/nowhere/at/all.txt]", ("corpus.source.prose", "/nowhere/at/all.txt")),
        ("corpus.source.prose=[campaign.yaml]", ("corpus.source.prose", ".txt")),
        ("folder=campaign.yaml/results", ("folder", "is a file")),
        ("folder=/proc/results", ("/proc", "folder")),
        ("storage=mysql://somewhere", ("storage", "postgresql")),
        ("training.batch_tokens=0", ("training.batch_tokens", "0 < batch_tokens")),
        ("training.warmup_steps=1000", ("warm-up",)),
        ("laws=[chinchila]", ("laws", "chinchilla")),
        ("target.train_flops=0", ("target.train_flops",)),
        ("workers.count=-1", ("workers.count", "count = 0")),
    ],
)
def test_a_field_that_cannot_be(campaign: Any, setting: str, says: tuple[str, ...]) -> None:
    before = sorted(campaign.folder.rglob("*"))
    assert_one_sentence(campaign.here("run", "campaign.yaml", "--set", setting), *says)
    assert sorted(campaign.folder.rglob("*")) == before, "nothing is half-written"


def test_a_space_in_which_nothing_is_feasible(campaign: Any) -> None:
    settings = ("--set", "space.granularity=1", "--set", "space.active_width={low: 40, high: 50}")
    assert_one_sentence(campaign.here("run", "campaign.yaml", *settings), "space")


def test_more_active_experts_than_experts(campaign: Any) -> None:
    layer = '{"mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 2, "head_dim": 8}, "ffn": {"kind": "moe", %s}}'
    path = campaign.folder / "bad.json"
    path.write_text(
        '{"d_model": 16, "vocab_size": 512, "seq_len": 64, "layers": [%s]}'
        % (layer % '"n_experts": 4, "top_k": 8, "d_expert": 8')
    )
    for verb in (("count", "bad.json"), ("export", "hf", "bad.json", "-o", "out")):
        assert_one_sentence(campaign.here(*verb), "top_k is 8", "1 <= top_k <= 4", "top_k = 4")
    path.write_text(path.read_text().replace('"n_kv_heads": 2', '"n_kv_heads": 3').replace('"top_k": 8', '"top_k": 2'))
    assert_one_sentence(campaign.here("count", "bad.json"), "n_kv_heads is 3", "does not divide")
    path.unlink()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "campain.yaml"), ("no such file", "campaign.yaml")),
        (("status", "campaign.yaml"), ("has not been started", "moe-search run")),
        (("worker", "campaign.yaml"), ("has not been started",)),
        (("recommend", "campaign.yaml"), ("has not been started",)),
        (("report", "campaign.yaml"), ("has not been started",)),
        (("ui", "campaign.yaml"), ("no MLflow runs yet",)),
        (("count", "Qwen3-30B"), ("neither a file nor a published model", "Qwen3-30B-A3B")),
        (("count",), ("which model?", "--list")),
        (("export", "megatron", "Qwen3-30B-A3B", "-o", "out"), ("megatron", "allowed: hf")),
        (("export", "hf", "DeepSeek-V3", "-o", "out"), ("lost would be", "mla", "shared expert", "sigmoid")),
        (("fit", "nothing.csv", "--law", "chinchilla"), ("nothing.csv",)),
        (("fit", "campaign.yaml", "--law", "chinchila"), ("chinchila", "chinchilla")),
        (("fit", ".", "--law", "chinchilla"), ("runs.parquet", "moe-search run")),
        (("init", ".", "--preset", "quick"), ("no preset", "quickstart")),
        (("init", "."), ("exists", "--force")),
        (("run", "campaign.yaml", "--set", "seed"), ("is not a setting", "name.of.field=value")),
    ],
)
def test_a_command_that_cannot_be(campaign: Any, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    before = sorted(campaign.folder.rglob("*"))
    assert_one_sentence(campaign.here(*arguments), *says)
    assert sorted(campaign.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [("rnu",), ("run",), ("run", "campaign.yaml", "--wrokers", "2"), ("count", "--batch-tokens", "0")]
)
def test_usage_errors_exit_2(campaign: Any, arguments: tuple[str, ...]) -> None:
    code, _, err = campaign.here(*arguments)
    assert code == 2
    assert "Error" in err


def test_the_traceback_is_there_for_who_asks(campaign: Any) -> None:
    quiet = campaign("count", "no-such-model")
    assert quiet.returncode == 2
    assert quiet.stderr.count("\n") == 1
    campaign.environment = campaign.environment | {"MOE_SEARCH_DEBUG": "1"}
    assert "Traceback" in campaign("count", "no-such-model").stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(campaign: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_one_sentence(campaign.here("run", "campaign.yaml", "--set", f"folder={tmp_path}/results"), "no permission")


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 200 kB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_exits_1(campaign: Any, small_disk: Path) -> None:
    done = campaign("run", "campaign.yaml", "--set", f"folder={small_disk}/results")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("error: ")
    assert "full" in last or "space" in last


def test_writing_to_a_full_device_exits_1(campaign: Any) -> None:
    command = campaign.command("count", "Mixtral-8x7B", "--json")
    with Path("/dev/full").open("w") as device:
        full = subprocess.run(command, stdout=device, stderr=subprocess.PIPE, text=True, check=False)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "disk is full" in full.stderr
