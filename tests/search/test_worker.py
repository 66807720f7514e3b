import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from moe_search.search import worker as worker_module
from moe_search.search.budget import budget_of
from moe_search.search.ledger import MAX_ATTEMPTS, Claim, Ledger
from moe_search.search.optuna_table import OptunaTable
from moe_search.search.problem import Problem
from moe_search.search.status import status_of
from moe_search.search.suggest import suggest
from moe_search.search.trial import Evaluate, Report, Row, Trial
from moe_search.search.worker import next_step, work
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.run import Run

FORK = multiprocessing.get_context("fork")  # a spawned worker would take seconds to import PyTorch
TRIALS_AT_LEAST = 14
GIVE_UP_SECONDS = 300
"""After which something hangs. Nothing here depends on being faster."""


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


class Pace:
    """Keeps kills and trials in step, so that a campaign has its number of kills on a machine of any speed.

    A trial does not end before its share of the kills is done, and a kill waits for the trial in whose share it is.
    What is shared between processes is written with single stores, because a lock would stay with a killed worker.

    Args:
        trials: of the campaign.
        kills: of workers, in all; the last trial ends after the last of them.
    """

    def __init__(self, trials: int, kills: int) -> None:
        self._trials, self._kills = trials, kills
        self._done = FORK.RawValue("i", 0)
        self._started = FORK.RawArray("b", trials)

    def _share(self, trial: int) -> int:
        return -(-self._kills * (trial + 1) // self._trials)

    def starts(self, trial: int) -> None:
        self._started[trial] = 1

    def may_end(self, trial: int) -> bool:
        return self._done.value >= self._share(trial)

    def may_kill(self) -> bool:
        return any(started and not self.may_end(trial) for trial, started in enumerate(self._started))

    def killed(self) -> int:
        self._done.value += 1
        return self._done.value


def run_worker(place: Place, world: SimulatedWorld, pace: Pace) -> None:
    """A worker process; trials take a little while, reporting and saving "checkpoints" on the way."""
    chance = random.Random(os.getpid())

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        pace.starts(trial.number)
        checkpoint = place.folder / f"{trial.run_key}.checkpoint"
        done = int(checkpoint.read_text() or 0) if checkpoint.exists() else 0
        for step in range(done, 4):
            report(5.0 - step, step + 1)
            time.sleep(0.02 * chance.random())
            checkpoint.with_suffix(f".{os.getpid()}").write_text(str(step + 1))
            checkpoint.with_suffix(f".{os.getpid()}").replace(checkpoint)
        while not pace.may_end(trial.number):
            time.sleep(0.002)
        return world.evaluate(trial, report)

    work(place.ledger(), world.problem, evaluate, heartbeat_seconds=0.05, report_seconds=0.0)


def start(place: Place, world: SimulatedWorld, pace: Pace) -> Any:
    process = FORK.Process(target=run_worker, args=(place, world, pace), daemon=True)
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
    pace = Pace(len(expected), kills=0)
    workers = [start(place, small, pace) for _ in range(n_workers)]
    for worker in workers:
        worker.join(GIVE_UP_SECONDS)
        assert worker.exitcode == 0
    assert_finished_like(place, expected)


def kill_at_random(
    place: Place, world: SimulatedWorld, expected: Sequence[Row], *, seed: int, n_workers: int, kills: int
) -> None:
    """Run a campaign, killing ``kills`` workers all along its way, each at a random moment of whatever it does."""
    chance = random.Random(seed)
    pace = Pace(len(expected), kills)
    place.ledger(world.problem)
    workers = [start(place, world, pace) for _ in range(n_workers)]
    give_up = time.monotonic() + GIVE_UP_SECONDS
    done = 0
    while done < kills:
        while not pace.may_kill():
            assert time.monotonic() < give_up, "the campaign stands still"
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.12))
        victim = chance.randrange(n_workers)
        workers[victim].kill()
        workers[victim].join(GIVE_UP_SECONDS)
        assert workers[victim].exitcode == -signal.SIGKILL, "it had ended by itself"
        workers[victim] = start(place, world, pace)
        done = pace.killed()
    for worker in workers:
        worker.join(GIVE_UP_SECONDS)
        assert worker.exitcode == 0
    assert_finished_like(place, expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_change_nothing(seed: int, place: Place, small: SimulatedWorld, expected: list[Row]) -> None:
    kill_at_random(place, small, expected, seed=seed, n_workers=2, kills=12)


def test_random_kills_change_nothing_on_a_database_server(
    postgresql: str, tmp_path: Path, small: SimulatedWorld, expected: list[Row]
) -> None:
    place = Place(postgresql, tmp_path, name=f"kills {tmp_path}")
    kill_at_random(place, small, expected, seed=5, n_workers=2, kills=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 18))
def test_many_random_kills_change_nothing(seed: int, place: Place, small: SimulatedWorld, expected: list[Row]) -> None:
    kill_at_random(place, small, expected, seed=seed, n_workers=3, kills=25)


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
    ("owner", "method", "call"),
    [
        (Ledger, "proposing", 2),  # before a proposal is worked out
        (Ledger, "append", 2),  # proposed, not claimed
        (OptunaTable, "_all", 5),  # wherever that is
        (Ledger, "claim", 2),  # claimed, not started
        (Ledger, "report", 3),  # in the middle of training
        (OptunaTable, "_set", 3),  # lease, result and status are written through it: between any two of them
        (OptunaTable, "_set", 4),
        (OptunaTable, "_set", 5),
        (OptunaTable, "_set", 6),
        (OptunaTable, "_tell", 2),  # told, not returned
        (Ledger, "commit", 2),
        (Ledger, "refresh", 2),
    ],
)
def test_a_kill_at_any_step_changes_nothing(
    owner: type, method: str, call: int, tmp_path: Path, small: SimulatedWorld, expected: list[Row]
) -> None:
    storages = {"append": f"sqlite:///{tmp_path}/campaign.db", "commit": f"sqlite:///{tmp_path}/campaign.db"}
    where = storages.get(method, str(tmp_path / "journal.log"))
    Ledger(where, problem=small.problem)
    first_trials = 6  # enough to pass every step; the rest is what other tests are for

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        report(4.0, 1)
        return small.evaluate(trial, report)

    def evaluate_without_end(trial: Trial, report: Report) -> list[Run]:
        while True:
            time.sleep(1)

    def worker(patch: Callable[[], None] = lambda: None, evaluate: Evaluate = evaluate) -> None:
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

    during = evaluate_without_end if method == "refresh" else evaluate  # however late the heartbeats are
    victim = FORK.Process(target=worker, args=(killed_after(owner, method, call), during), daemon=True)
    victim.start()
    victim.join(GIVE_UP_SECONDS)
    assert victim.exitcode == -signal.SIGKILL
    successor = FORK.Process(target=worker, daemon=True)
    successor.start()
    successor.join(GIVE_UP_SECONDS)
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


@pytest.mark.parametrize("reason", ["asked", "deadline"])
def test_stopping_gives_the_running_trial_back(
    reason: str, tmp_path: Path, small: SimulatedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "journal.log", problem=small.problem)
    clock, reports = SimpleNamespace(now=100.0, asked=False), 0
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep))

    def endless(trial: Trial, report: Report) -> list[Run]:
        nonlocal reports
        while True:
            report(5.0, 1)
            reports += 1
            if reports == 3:
                clock.now, clock.asked = (200.0, False) if reason == "deadline" else (100.0, True)

    assert work(ledger, small.problem, endless, stop=lambda: clock.asked, deadline=200.0) == 0
    assert reports == 3
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
