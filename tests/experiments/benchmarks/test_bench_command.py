"""``moe-search bench`` and ``moe-search doctor`` as a person calls them."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from moe_search.experiments import doctor
from moe_search.experiments.benchmarks import processes, running, steps
from moe_search.experiments.benchmarks.families import Setting
from moe_search.experiments.cli import main
from moe_search.scaling.throughput import read_table

STEP = ("bench", "step", "--shape", "1,16,2,4,2,8,32", "--tokens", "32", "--seq-len", "16", "--repeats", "2")
LAYER = ("bench", "kernels", "--family", "moe_ffn", "--shape", "16,4,2,8", "--tokens", "64", "--repeats", "2")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables go to a folder of the test's; compiled libraries stay where they are."""
    monkeypatch.setattr("moe_search.proxies.corpus.default_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_layer_is_timed_saved_drawn_and_stored(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affinity = os.sched_getaffinity(0)
    report = printed(capsys, *LAYER, "--only", "grouped", "--out", str(tmp_path / "out"), "--store")
    (case,) = report["cases"]
    assert case["shape"] == {"d_model": 16, "n_experts": 4, "top_k": 2, "d_expert": 8}
    assert case["flops"] == 18 * 64 * 2 * 16 * 8
    names = {row["name"] for row in case["contestants"]}
    assert {"grouped", case["baseline"]} <= names
    assert "reference" not in names
    grouped = next(row for row in case["contestants"] if row["name"] == "grouped")
    assert grouped["rounds"] == 2
    assert grouped["wall_seconds"]["low"] <= grouped["wall_seconds"]["median"] <= grouped["wall_seconds"]["high"]
    assert set(grouped["ratios"]) == names - {"grouped"}
    assert report["machine"]["torch"] == torch.__version__
    assert os.sched_getaffinity(0) == affinity

    saved, chart = sorted((tmp_path / "out").iterdir())
    assert json.loads(saved.read_text()) == report
    assert saved.name.startswith(report["machine"]["date"][:10].replace("-", ""))
    drawn = ElementTree.fromstring(chart.read_text())
    said = [element.text for element in drawn.iter() if element.text and element.text.strip()]
    assert "d 16, E 4, k 2, f 8" in said
    assert "grouped" in said
    assert not [element for element in drawn.iter() if element.tag.endswith("script")]

    (file,) = (cache / "throughput").iterdir()
    table = read_table(file)
    assert table.backend == "grouped"
    (row,) = table.layers
    assert (row.d_model, row.n_experts, row.top_k, row.d_expert, row.tokens) == (16, 4, 2, 8, 64)
    assert row.seconds == pytest.approx(grouped["cpu_seconds"]["median"] / 64)


def test_a_step_is_timed_next_to_dense_and_transformers(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    for dtype in ("float32", "bfloat16"):
        report = printed(capsys, *STEP, "--dtype", dtype, "--store")
        (case,) = report["cases"]
        names = {row["name"] for row in case["contestants"]}
        assert {"ours", "dense", "transformers eager", "transformers grouped_mm"} <= names
        assert case["absent"] == {}
    (file,) = (cache / "throughput").iterdir()
    assert {row.dtype for row in read_table(file).steps} == {"float32", "bfloat16"}


def test_designs_are_compared_with_what_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    report = printed(capsys, "bench", "step", "--designs", "1", "--seed", "4", "--repeats", "1")
    (row,) = report["prices"]["rows"]
    assert row["predicted_over_measured"] == pytest.approx(
        row["predicted_seconds_per_token"] / row["measured_seconds_per_token"]
    )
    assert 0.05 < row["predicted_over_measured"] < 20
    assert list(report["prices"]["tables"].values()) == ["the package's"]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_processes_run_side_by_side() -> None:
    each = processes._together(2, steps.step_shape((1, 16, 2, 4, 2, 8, 32), seq_len=16), Setting(tokens=32), 1, 0.1)
    assert len(each) == 2
    assert all(rate.wall > 0 and rate.cpu > 0 for rate in each)


def test_scaling_is_over_one_process_before_and_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Rate = processes.Rate
    answers = iter([[Rate(90.0, 200.0)], [Rate(95.0, 180.0)] * 2, [Rate(110.0, 200.0)]])
    asked: list[int] = []
    monkeypatch.setattr(processes, "_together", lambda number, *_: asked.append(number) or next(answers))
    monkeypatch.setattr(running, "pinned", lambda *_: nullcontext((0,)))
    scaling = printed(capsys, *STEP, "--only", "ours", "--processes", "2")["scaling"]
    assert asked == [1, 2, 1]
    assert (scaling["tokens_per_second_alone"], scaling["tokens_per_second_together"]) == (100.0, 190.0)
    assert (scaling["times"], scaling["times_by_cpu_time"]) == pytest.approx((1.9, 1.8))


def test_tables_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LAYER]) == 0
    shown = capsys.readouterr()
    for text in ("moe_ffn: d 16, E 4, k 2, f 8; float32, 64 tokens", "grouped", "dense", "of peak", "kept"):
        assert text in shown.out
    assert "1 of 1: moe_ffn d_model=16" in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "kernels", "--family", "nothing"], "unknown name 'nothing'"),
        (["bench", "kernels", "--family", "moe_ffn", "--shape", "16,4"], "--shape: 2 numbers; allowed: 4"),
        (["bench", "kernels", "--family", "moe_ffn", "--shape", "16,4,x,1"], "--shape: '16,4,x,1'"),
        (["bench", "kernels", "--family", "moe_ffn", "--shape", "16,0,1,8"], "n_experts is 0"),
        (["bench", "kernels", "--family", "moe_ffn", "--shape", "16,4,8,8"], "top_k is 8 of 4 experts"),
        (["bench", "kernels", "--shape", "16,4,8,8"], "nearest fix: --family moe_ffn"),
        ([*LAYER, "--only", "nobody"], "no contestant's name has 'nobody' in it"),
        ([*LAYER, "--dtype", "float16"], "--dtype: 'float16'; allowed: float32, bfloat16"),
        ([*LAYER, "--threads", "4096"], "--threads"),
        ([*LAYER, "--processes", "2"], "--processes: bench kernels has no such option"),
        ([*STEP, "--skew", "8"], "--skew: bench step has no such option"),
        ([*STEP, "--tokens", "33"], "--tokens: 33 tokens are no whole number of sequences of 16; nearest fix: 32"),
        ([*STEP, "--designs", "2"], "--designs: designs have shapes of their own"),
        ([*STEP, "--processes", "2", "--device", "cuda"], "--processes: processes side by side are timed on cores"),
        (["bench", "step", "--shape", "1,16,3,4,2,8,32"], "3 heads"),
        (["bench", "step", "--shape", "1,16,2,4,8,8,32"], "top_k is 8 of 4 experts"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LAYER, "--device", "cuda"]) == 2
    assert "PyTorch sees no CUDA device" in capsys.readouterr().err


def test_a_level_that_the_cpu_has_not_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOE_SEARCH_CPU_LEVEL", "avx10000")
    assert main([*LAYER]) == 2
    assert "MOE_SEARCH_CPU_LEVEL is 'avx10000'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*LAYER, "--out", str(tmp_path / "file")]) == 2
    shown = capsys.readouterr().err
    assert "is a file, not a folder" in shown
    assert "1 of 1" not in shown


def test_the_doctor_says_what_is_active_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "doctor")
    assert found["healthy"] is True
    assert found["versions"]["torch"] == torch.__version__
    rows = {(row["family"], row["device"], row["dtype"]): row for row in found["backends"]}
    assert {("moe_ffn", "cpu", "float32"), ("moe_ffn", "cpu", "bfloat16")} <= set(rows)
    assert all(row["reason"] for row in rows.values())
    assert all(row["backend"] in {*row["known"], None} for row in rows.values())
    assert {folder["use"] for folder in found["folders"]} == {"cache", "libraries", "working folder"}
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for text in ("processor", "oneDNN", "Kernels: what `auto` takes", "moe_ffn"):
        assert text in shown


def test_the_doctor_names_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOE_SEARCH_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("MOE_SEARCH_CPU_LEVEL", "avx10000")
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=1", "torch>=999", "numpy"])
    assert main(["doctor", "--json"]) == 1
    shown = capsys.readouterr()
    problems = json.loads(shown.out)["problems"]
    assert problems[0] == "no-such-package is missing; pip install 'no-such-package>=1'"
    assert problems[1] == f"torch is {torch.__version__}; pip install 'torch>=999'"
    assert "avx10000" in problems[2]
    assert "cannot be written" in problems[3]
    assert shown.err.count("error:") == len(problems)


def test_the_doctor_builds_when_asked(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[str] = []
    monkeypatch.setattr(doctor, "compiler", lambda: ("/bin/c++", "c++ 1.0"))
    monkeypatch.setattr(doctor, "library_path", lambda source, level: cache / f"{source.stem}-{level}.so")

    def build(source: Path, level: str) -> None:
        if source.stem == "moe_ffn":
            raise doctor.BuildError("c++ does not compile moe_ffn.cpp")
        built.append(source.stem)
        cache.mkdir(exist_ok=True)
        (cache / f"{source.stem}-{level}.so").touch()

    monkeypatch.setattr(doctor, "build", build)
    found = printed(capsys, "doctor")
    assert built == []
    assert not any(library["built"] for library in found["libraries"])
    row = next(row for row in found["backends"] if row["family"] == "moe_ffn")
    assert (row["backend"], row["reason"]) == (None, "compiled at first use; moe-search doctor --build does it now")
    assert main(["doctor", "--build"]) == 1
    assert "error: c++ does not compile moe_ffn.cpp" in capsys.readouterr().err
    assert built
