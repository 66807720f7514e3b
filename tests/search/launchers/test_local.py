"""Workers as processes of this machine."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_search.search.launchers.local import LocalOptions, LocalWorkers, core_groups, share, visible_gpus
from moe_search.search.launching import Crew
from moe_search.spaces.errors import InvalidInputError, ResourceError

GIVE_UP_SECONDS = 60
NO_GPU = LocalOptions(gpus=())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_are_tended_until_all_have_found_nothing_left(crew: Crew, do: Callable[[str], None]) -> None:
    do("while not (here / 'enough').exists(): time.sleep(0.01)")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(2)
    assert workers.tend() == 2
    (crew.folder / "enough").touch()
    until(lambda: workers.tend() == 0)
    workers.stop()


def test_a_dead_worker_is_started_again_three_times_in_a_row(crew: Crew, do: Callable[[str], None]) -> None:
    do("print('out of luck', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(1)
    with pytest.raises(ResourceError, match=r"died 4 times \(signal SIGKILL\): out of luck \(see .*worker-1.log\)"):
        until(lambda: workers.tend() == 0)


def test_a_worker_that_was_asked_to_stop_is_started_again_at_no_cost(crew: Crew, do: Callable[[str], None]) -> None:
    do("(here / f'began-{os.getpid()}').touch(); sys.exit(130 if len(list(here.glob('began-*'))) < 6 else 0)")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(1)
    until(lambda: workers.tend() == 0)
    assert len(list(crew.folder.glob("began-*"))) == 6


def test_a_refused_specification_is_the_users(crew: Crew, do: Callable[[str], None]) -> None:
    do("print('error: space.top_k is 0'); sys.exit(2)")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(1)
    with pytest.raises(InvalidInputError, match=r"^space.top_k is 0 \(see "):
        until(lambda: workers.tend() == 0)


def test_stop_asks_by_sigterm_and_waits(crew: Crew, do: Callable[[str], None]) -> None:
    do("wait_until_asked()")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(2)
    until(lambda: len(list(crew.folder.glob("up-*"))) == 2)
    workers.stop()
    assert len(list(crew.folder.glob("asked-*-SIGTERM"))) == 2


def test_who_does_not_stop_within_the_grace_period_is_killed(
    crew: Crew, do: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_search.search.launchers.local.MARGIN_SECONDS", 0.1)
    do("(here / f'up-{os.getpid()}').touch()\nwhile True: time.sleep(0.01)")
    workers = LocalWorkers(Crew(**{**vars(crew), "grace_seconds": 0.1}), NO_GPU)
    workers.start(1)
    until(lambda: list(crew.folder.glob("up-*")))
    workers.stop()
    pid = int(next(crew.folder.glob("up-*")).name.removeprefix("up-"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_threads_cores_and_devices_are_the_workers_own(crew: Crew, do: Callable[[str], None]) -> None:
    do(
        "import json\n"
        "time.sleep(0.2)\n"  # the cores are set just after the start
        "(here / f'saw-{os.getpid()}').write_text(json.dumps([os.environ['OMP_NUM_THREADS'],"
        " os.environ.get('CUDA_VISIBLE_DEVICES'), sorted(os.sched_getaffinity(0))]))"
    )
    two = Crew(**{**vars(crew), "threads": 2})
    workers = LocalWorkers(two, LocalOptions(gpus=()))
    workers.start(1)
    until(lambda: workers.tend() == 0)
    with_gpus = LocalWorkers(Crew(**{**vars(crew), "devices": 2}), LocalOptions(gpus=(0, 1, "GPU-a1b2", 3)))
    with_gpus.start(3)
    until(lambda: with_gpus.tend() == 0)
    saw = [json.loads(path.read_text()) for path in crew.folder.glob("saw-*")]
    allowed = os.sched_getaffinity(0)
    (pinned,) = (cores for threads, _, cores in saw if threads == "2")
    assert len(pinned) >= 2 or len(allowed) < 2
    assert sorted(gpus for threads, gpus, _ in saw if threads == "1") == ["0,1", "0,1", "GPU-a1b2,3"]


@pytest.mark.parametrize(
    ("cores", "count", "each", "groups"),
    [
        ([{0, 4}, {1, 5}, {2, 6}, {3, 7}], 2, 2, [{0, 4, 1, 5}, {2, 6, 3, 7}]),  # whole cores
        ([{0, 4}, {1, 5}, {2, 6}, {3, 7}], 2, 4, [{0, 4, 1, 5}, {2, 6, 3, 7}]),  # half of them each
        ([{0, 4}, {1, 5}, {2, 6}, {3, 7}], 3, 4, None),
        ([{0}, {1}], 1, 2, [{0, 1}]),
    ],
)
def test_core_groups(cores: list[set[int]], count: int, each: int, groups: list[set[int]] | None) -> None:
    assert core_groups([frozenset(core) for core in cores], count, each) == groups


def test_devices_are_dealt_in_turn() -> None:
    assert [share(["0", "1", "2"], 1, index) for index in range(4)] == [["0"], ["1"], ["2"], ["0"]]
    assert [share(["0", "1", "2"], 2, index) for index in range(2)] == [["0", "1"], ["0", "1"]]
    assert share([], 1, 0) == []


def test_visible_devices_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-a1")
    assert visible_gpus() == ("3", "GPU-a1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ("0", "1")


def test_too_few_devices_for_one_proxy_are_refused(crew: Crew) -> None:
    with pytest.raises(
        InvalidInputError, match=r"workers.local.gpus: a worker trains on 4 devices but 2 are there \(0, 1\)"
    ):
        LocalWorkers(Crew(**{**vars(crew), "devices": 4}), LocalOptions(gpus=(0, 1)))


def test_logs_are_in_the_campaigns_folder(crew: Crew, do: Callable[[str], None], tmp_path: Path) -> None:
    do("print('hello')")
    workers = LocalWorkers(crew, NO_GPU)
    workers.start(1)
    until(lambda: workers.tend() == 0)
    assert (tmp_path / "logs" / "worker-1.log").read_text() == "hello\n"
