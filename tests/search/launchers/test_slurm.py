"""Workers as jobs: on submitit's own executors here; ``tests/chaos/test_launchers.py`` has a real cluster."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_search.search.job_queue import ThisMachine
from moe_search.search.launchers import slurm
from moe_search.search.launchers.slurm import SlurmOptions, SlurmWorkers, WorkerJob
from moe_search.search.launching import Crew
from moe_search.spaces.errors import InvalidInputError, ResourceError

submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")

GIVE_UP_SECONDS = 60
HERE = SlurmOptions(executor="local", minutes=60)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUESTIONS", 0.1)
    monkeypatch.setattr(slurm, "VANISHED_SECONDS", 0.3)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pids(crew: Crew) -> list[int]:
    """The workers that are at work."""
    found = []
    for path in crew.folder.glob("up-*"):
        pid = int(path.name.removeprefix("up-"))
        if not list(crew.folder.glob(f"asked-{pid}-*")):
            found.append(pid)
    return found


def test_a_preempted_job_is_requeued_and_its_worker_asked_once(crew: Crew, do: Callable[[str], None]) -> None:
    do("wait_until_asked()")
    workers = SlurmWorkers(crew, HERE)
    workers.start(1)
    try:
        until(lambda: pids(crew))
        (first,) = pids(crew)
        os.kill(parent(first), signal.SIGUSR2)  # what SLURM sends to a job that it is about to preempt
        until(lambda: pids(crew) and first not in pids(crew))
        assert (crew.folder / f"asked-{first}-SIGTERM").exists()
        assert workers.tend() == 1
        assert len(list((crew.logs / "slurm").glob("*_submitted.pkl"))) == 1, "the same job has gone on"
    finally:
        workers.stop()
    assert not pids(crew), "stopping asks, too"
    assert json.loads((crew.folder / "slurm-jobs.json").read_text())["jobs"] == []


def test_jobs_of_a_command_that_was_killed_are_found_again(crew: Crew, do: Callable[[str], None]) -> None:
    do("while not (here / 'enough').exists(): time.sleep(0.01)\n(here / f'done-{os.getpid()}').touch()")
    said: list[str] = []
    crew = Crew(**{**vars(crew), "warn": said.append})
    SlurmWorkers(crew, HERE).start(1)  # and nobody stops it
    (old,) = json.loads((crew.folder / "slurm-jobs.json").read_text())["jobs"]
    until(lambda: ThisMachine().states([old]))
    again = SlurmWorkers(crew, HERE)
    again.start(2)
    try:
        jobs = json.loads((crew.folder / "slurm-jobs.json").read_text())["jobs"]
        assert len(jobs) == 2
        assert jobs[0] == old
        assert said == [f"1 jobs of an earlier command go on: {old}"]
        assert again.tend() == 2
        (crew.folder / "enough").touch()
        until(lambda: again.tend() == 0)
    finally:
        again.stop()
    assert len(list(crew.folder.glob("done-*"))) == 2


def test_a_job_that_is_gone_is_submitted_anew_until_it_is_no_accident(crew: Crew, do: Callable[[str], None]) -> None:
    do("wait_until_asked()")
    workers = SlurmWorkers(crew, HERE)
    workers.start(1)
    try:
        until(lambda: pids(crew))
        (job,) = json.loads((crew.folder / "slurm-jobs.json").read_text())["jobs"]
        for pid in (int(job), parent(pids(crew)[0]), pids(crew)[0]):
            os.kill(pid, signal.SIGKILL)
        until(lambda: workers.tend() and json.loads((crew.folder / "slurm-jobs.json").read_text())["jobs"] != [job])
    finally:
        workers.stop()
    do("print('out of luck'); sys.exit(7)")
    workers.start(1)
    with pytest.raises(ResourceError, match=r"died 4 times \(exit code 7\): out of luck \(see .*-worker.log\)"):
        until(lambda: workers.tend() == 0)


def test_the_job_itself_in_submitits_debug_executor(crew: Crew, do: Callable[[str], None]) -> None:
    folder = crew.logs / "slurm"
    folder.mkdir()
    executor = submitit.AutoExecutor(folder=folder, cluster="debug")
    do("print('hello'); sys.exit(3)")
    job = executor.submit(WorkerJob(crew.arguments, folder, 1, 5.0))
    before = signal.getsignal(signal.SIGTERM)
    assert job.result() == 3
    assert signal.getsignal(signal.SIGTERM) is before
    (note,) = folder.glob("*-ended.json")
    assert json.loads(note.read_text())["code"] == 3
    assert json.loads(note.read_text())["words"].startswith("hello (see ")


def test_the_script_asks_for_what_the_file_says(crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, answer in {
        "sbatch": f"cp $1 {tmp_path}/script.sh; echo Submitted batch job 17",
        "squeue": "echo 17_0 RUNNING; echo 17_1 PENDING; echo 17_2 NODE_FAIL",
        "scancel": f"echo $@ >> {tmp_path}/cancelled",
        "srun": "true",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{answer}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = SlurmOptions(
        partition="long",
        account="moe",
        minutes=90,
        gpus=2,
        memory_gb=32,
        sbatch={"reservation": "r1", "exclusive": True},
    )
    workers = SlurmWorkers(Crew(**{**vars(crew), "devices": 2, "threads": 3, "grace_seconds": 20.5}), options)
    workers.start(3)
    script = (tmp_path / "script.sh").read_text()
    for line in (
        "array=0-2%3", "partition=long", "account=moe", "time=90", "gpus-per-node=2", "cpus-per-task=6", "mem=32GB",
        "signal=USR2@51", "reservation=r1", "exclusive", "requeue", "job-name=moe-search-tiny",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    jobs = crew.folder / "slurm-jobs.json"
    assert json.loads(jobs.read_text())["jobs"] == ["17_0", "17_1", "17_2"]
    until(lambda: workers.tend() and "17" in json.loads(jobs.read_text())["jobs"])
    assert json.loads(jobs.read_text())["jobs"] == ["17_0", "17_1", "17"], "a lost node's job is submitted anew"
    (crew.logs / "slurm" / "17_0-ended.json").write_text('{"code": 0, "words": ""}')
    (crew.logs / "slurm" / "17-ended.json").write_text('{"code": 0, "words": ""}')
    until(lambda: workers.tend() == 0)
    assert (tmp_path / "cancelled").read_text() == "17_1\n", "what has not begun has nothing left to do"


def test_what_cannot_be_submitted_is_one_sentence(crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"workers.launcher: there is no sbatch here"):
        SlurmWorkers(crew, SlurmOptions())
    with pytest.raises(InvalidInputError, match=r"workers.slurm.gpus: a job has 4 GPUs but a proxy trains on 1"):
        SlurmWorkers(crew, SlurmOptions(gpus=4))
    for name, answer in {"sbatch": "echo Invalid partition name specified >&2; exit 1", "srun": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ResourceError, match=r"the jobs were not submitted: .*Invalid partition name"):
        SlurmWorkers(crew, SlurmOptions()).start(2)
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'moe-search\[slurm\]'"):
        SlurmWorkers(crew, SlurmOptions())


@pytest.mark.parametrize(
    "options",
    [{"partition": "a\nrm -rf x"}, {"sbatch": {"comment": "a\nb"}}, {"sbatch": {"wrap=x": "y"}}, {"gpus": -1}],
)
def test_options_stay_on_their_lines_of_the_script(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pattern|greater"):
        SlurmOptions.model_validate(options)
