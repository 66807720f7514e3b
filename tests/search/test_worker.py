import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moe_search.search.budget import budget_of
from moe_search.search.ledger import MAX_ATTEMPTS, Claim, Ledger
from moe_search.search.problem import Problem
from moe_search.search.status import status_of
from moe_search.search.suggest import suggest
from moe_search.search.trial import Report, Row, Trial
from moe_search.search.worker import next_step, work
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.run import Run

FORK = multiprocessing.get_context("fork")  # a spawned worker would take seconds to import PyTorch
TRIALS_AT_LEAST = 14


@pytest.fixture(scope="module")
def small(problem_of_budget: Callable[..., Problem]) -> SimulatedWorld:
    """A campaign of some twenty trials, some of which diverge, with quick suggestions."""
    ladder = Ladder(sizes=(300_000, 1_000_000), tokens=(5_000_000, 10_000_000))
    problem = problem_of_budget(tops=5.0, ladder=ladder, pool_size=16, neighbours=4, lag=2, initial_share=0.5)
    return SimulatedWorld(problem=problem, seed=3, diverging=0.3)


def alone(world: SimulatedWorld) -> list[Row]:
    """The trial table by the definition: proposals one after the other, without any ledger."""
    rows: list[Row] = []
    while not isinstance(step := next_step(world.problem, rows), str):
        trial = world.problem.trial(len(rows), step)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        rows.append(Row(trial=trial, state="finished", runs=tuple(runs)))
    assert step == "done"
    return rows


@pytest.fixture(scope="module")
def expected(small: SimulatedWorld) -> list[Row]:
    rows = alone(small)
    assert len(rows) >= TRIALS_AT_LEAST
    assert {run.status for row in rows for run in row.runs} == {"finished", "diverged"}
    return rows


class Place(NamedTuple):
    """Where a campaign lives."""

    storage: str
    folder: Path
    name: str = "campaign"

    def ledger(self, problem: Problem | None = None) -> Ledger:
        return Ledger(self.storage, name=self.name, problem=problem)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "journal.log"), tmp_path)


def run_worker(place: Place, world: SimulatedWorld, seconds: float) -> None:
    """A worker process; trials take a little while, reporting and saving "checkpoints" on the way."""
    chance = random.Random(os.getpid())

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        checkpoint = place.folder / f"{trial.run_key}.checkpoint"
        done = int(checkpoint.read_text() or 0) if checkpoint.exists() else 0
        for step in range(done, 4):
            report(5.0 - step, step + 1)
            time.sleep(seconds * chance.random())
            checkpoint.with_suffix(f".{os.getpid()}").write_text(str(step + 1))
            checkpoint.with_suffix(f".{os.getpid()}").replace(checkpoint)
        return world.evaluate(trial, report)

    work(place.ledger(), world.problem, evaluate, heartbeat_seconds=0.05, report_seconds=0.0)


def start(place: Place, world: SimulatedWorld, seconds: float = 0.02) -> Any:
    process = FORK.Process(target=run_worker, args=(place, world, seconds))
    process.start()
    return process


def assert_finished_like(place: Place, expected: Sequence[Row]) -> None:
    ledger = place.ledger()
    rows = ledger.rows()
    assert rows == list(expected)  # designs, scales, seeds, reasons, costs and runs, bit for bit
    budget = budget_of(ledger.problem.budget_flops, rows)
    assert budget.reserved == 0
    assert budget.settled == sum(run.paid_flops for row in expected for run in row.runs) <= budget.total
    assert not any(trial.state.name in ("RUNNING", "WAITING") for trial in ledger.study.trials)
    assert [trial.number for trial in ledger.study.trials] == list(range(len(expected)))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_any_number_of_workers_gives_the_same_table(
    n_workers: int, place: Place, small: SimulatedWorld, expected: list[Row]
) -> None:
    place.ledger(small.problem)
    workers = [start(place, small) for _ in range(n_workers)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert_finished_like(place, expected)


def kill_at_random(
    place: Place, world: SimulatedWorld, expected: Sequence[Row], *, seed: int, n_workers: int, seconds: float = 0.02
) -> int:
    """Run workers, killing one every few tenths of a second, until the campaign is over. Return the number of kills."""
    chance = random.Random(seed)
    place.ledger(world.problem)
    workers = [start(place, world, seconds) for _ in range(n_workers)]
    kills = 0
    give_up = time.monotonic() + 90
    while any(worker.exitcode != 0 for worker in workers):
        assert time.monotonic() < give_up, "the campaign does not end"
        time.sleep(chance.uniform(0.02, 0.35))
        victim = chance.randrange(n_workers)
        if workers[victim].is_alive():
            workers[victim].kill()
            workers[victim].join()
            kills += workers[victim].exitcode == -signal.SIGKILL
        if workers[victim].exitcode != 0:
            workers[victim] = start(place, world, seconds)
    assert_finished_like(place, expected)
    return kills


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_change_nothing(seed: int, place: Place, small: SimulatedWorld, expected: list[Row]) -> None:
    kills = kill_at_random(place, small, expected, seed=seed, n_workers=2)
    assert kills >= 3


def test_random_kills_change_nothing_on_a_database_server(
    postgresql: str, tmp_path: Path, small: SimulatedWorld, expected: list[Row]
) -> None:
    place = Place(postgresql, tmp_path, name=f"kills {tmp_path}")
    assert kill_at_random(place, small, expected, seed=5, n_workers=2) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_random_kills_change_nothing(seed: int, place: Place, small: SimulatedWorld, expected: list[Row]) -> None:
    assert kill_at_random(place, small, expected, seed=seed, n_workers=3, seconds=0.1) >= 8


def killed_after(owner: type, method: str, call: int) -> Callable[[], None]:
    """Return a patch that kills the process right after a method returned for the n-th time."""
    original = getattr(owner, method)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = original(*args, **kwargs)
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return lambda: setattr(owner, method, patched)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("proposing", 2),  # before a proposal is worked out
        ("append", 2),  # proposed, not claimed
        ("_frozen_trials", 5),  # wherever that is
        ("claim", 2),  # claimed, not started
        ("report", 3),  # in the middle of training
        ("_set", 3),  # lease, result and status are written through it: between any two of them
        ("_set", 4),
        ("_set", 5),
        ("_tell", 2),  # told, not returned
        ("commit", 2),
        ("refresh", 2),
    ],
)
def test_a_kill_at_any_step_changes_nothing(
    method: str, call: int, tmp_path: Path, small: SimulatedWorld, expected: list[Row]
) -> None:
    storages = {"append": f"sqlite:///{tmp_path}/campaign.db", "commit": f"sqlite:///{tmp_path}/campaign.db"}
    where = storages.get(method, str(tmp_path / "journal.log"))
    Ledger(where, problem=small.problem)
    first_trials = 6  # enough to pass every step; the rest is what other tests are for

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        report(4.0, 1)
        time.sleep(0.03)
        return small.evaluate(trial, report)

    def worker(patch: Callable[[], None] = lambda: None) -> None:
        patch()
        ledger = Ledger(where)
        work(
            ledger,
            small.problem,
            evaluate,
            heartbeat_seconds=0.01,
            report_seconds=0.0,
            stop=lambda: sum(not row.is_open for row in ledger.rows()) >= first_trials,
        )

    victim = FORK.Process(target=worker, args=(killed_after(Ledger, method, call),))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    successor = FORK.Process(target=worker)
    successor.start()
    successor.join(60)
    assert successor.exitcode == 0
    rows = Ledger(where).rows()
    assert rows[:first_trials] == expected[:first_trials]
    assert not any(row.state == "running" for row in rows)


def test_interrupting_leaves_the_trial_to_be_resumed(tmp_path: Path, small: SimulatedWorld) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)
    seen: list[str] = []

    def interrupted(trial: Trial, report: Report) -> list[Run]:
        seen.append(trial.run_key)
        report(5.0, 1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(ledger, small.problem, interrupted, owner="me")
    assert [row.state for row in ledger.rows()] == ["running"]
    running = status_of(ledger).running
    assert [(r.trial, r.owner, r.is_held, r.tokens, r.loss) for r in running] == [(0, "me", False, 1000, 5.0)]

    def resumed(trial: Trial, report: Report) -> list[Run]:
        seen.append(trial.run_key)
        return small.evaluate(trial, report)

    assert work(ledger, small.problem, resumed, stop=lambda: ledger.rows()[0].state == "finished") == 1
    assert seen[0] == seen[1]


def test_stopping_gives_the_running_trial_back(tmp_path: Path, small: SimulatedWorld) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)
    deadline = time.monotonic() + 0.3

    def endless(trial: Trial, report: Report) -> list[Run]:
        while True:
            report(5.0, 1)
            time.sleep(0.01)

    assert work(ledger, small.problem, endless, deadline=deadline) == 0
    assert time.monotonic() < deadline + 5
    assert ledger.claim("another") is not None


def test_an_exception_is_tried_again_and_then_recorded(
    tmp_path: Path, small: SimulatedWorld, expected: list[Row]
) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)
    attempts: dict[int, int] = {}

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        attempts[trial.number] = attempts.get(trial.number, 0) + 1
        if trial.number == 1 and attempts[1] < MAX_ATTEMPTS:
            raise RuntimeError("a flaky machine")
        if trial.number == 2:
            raise RuntimeError("cannot be trained")
        return small.evaluate(trial, report)

    done = work(ledger, small.problem, evaluate, stop=lambda: sum(not row.is_open for row in ledger.rows()) >= 4)
    rows = ledger.rows()
    assert attempts[1] == attempts[2] == MAX_ATTEMPTS
    assert [row.state for row in rows[:4]] == ["finished", "finished", "failed", "finished"]
    assert rows[1] == expected[1]
    assert rows[2].message == "RuntimeError: cannot be trained"
    assert done == 3


def test_a_worker_that_fails_at_everything_stops(tmp_path: Path, small: SimulatedWorld) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)

    def broken(trial: Trial, report: Report) -> list[Run]:
        raise RuntimeError("no such device")

    with pytest.raises(ResourceError, match=r"3 trials in a row failed.*no such device"):
        work(ledger, small.problem, broken)
    assert [row.state for row in ledger.rows()] == ["failed"] * 3


def test_an_error_that_the_user_has_to_mend_costs_no_attempt(tmp_path: Path, small: SimulatedWorld) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)

    def full(trial: Trial, report: Report) -> list[Run]:
        raise ResourceError("the disk is full")

    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(ResourceError, match="the disk is full"):
            work(ledger, small.problem, full)
    assert [row.state for row in ledger.rows()] == ["running"]
    assert ledger.claim("another") is not None


def test_a_worker_that_lost_its_lease_gives_up(tmp_path: Path, small: SimulatedWorld) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)
    rival = Ledger(tmp_path / "journal.log", lease_seconds=1000)
    aborted = 0

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        nonlocal aborted
        claim = ledger.claim("nobody")  # nothing else is free
        assert claim is None
        ledger.release(ledger_claim(ledger, trial))
        stolen = rival.claim("rival")
        assert stolen is not None
        assert stolen.trial == trial
        try:
            while True:
                report(5.0, 1)
                time.sleep(0.01)
        finally:
            aborted += 1

    assert work(ledger, small.problem, evaluate, heartbeat_seconds=0.02, stop=lambda: aborted > 0) == 0
    lease, _ = rival.progress()[0]
    assert lease is not None
    assert (lease.owner, lease.is_held()) == ("rival", True)


def ledger_claim(ledger: Ledger, trial: Trial) -> Any:
    lease, _ = ledger.progress()[trial.number]
    assert lease is not None
    return Claim(trial=trial, owner=lease.owner, token=lease.token)


def test_early_results_do_not_change_a_proposal(small: SimulatedWorld, expected: list[Row]) -> None:
    """Whether pending rows have finished makes no difference: the lag rule, at every number of the table."""
    lag = small.problem.lag
    for number in range(len(expected)):
        pending = [row.replace(state="running", runs=()) for row in expected[max(number - lag, 0) : number]]
        early = next_step(small.problem, expected[:number])
        late = next_step(small.problem, [*expected[: max(number - lag, 0)], *pending])
        assert early == expected[number].trial.proposal
        assert late in (early, "wait")  # it waits only when the budget is what pending trials leave


def test_proposals_ahead_do_not_repeat(small: SimulatedWorld, expected: list[Row]) -> None:
    proposals = suggest(small.problem, expected[:8], (), n=4)
    assert len({(p.design, p.scale, p.seed) for p in proposals}) == 4
