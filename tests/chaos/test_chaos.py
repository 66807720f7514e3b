"""Whatever is killed, restarted or cut, at whatever step: the trial table comes out as if nothing had happened.

By default a few workers, trials and kills; ``MOE_SEARCH_CHAOS=full`` for eight workers, 200 trials and 200 kills, whose
figures are in ``docs/reliability.md``. With ``MOE_SEARCH_CHAOS_FIGURES`` naming a file, figures are appended to it.
"""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest

from moe_search.search.budget import budget_of
from moe_search.search.ledger import Ledger
from moe_search.search.storage import open_storage
from moe_search.search.trial import Row

FULL = os.environ.get("MOE_SEARCH_CHAOS") == "full"
GIVE_UP_SECONDS = 3000 if FULL else 300
"""After which something hangs. Nothing here depends on being faster."""
KILLED, GAVE_UP = -signal.SIGKILL, 1
"""Exit codes of workers."""
PROTOCOL = {
    "before ask": "ask, entered",
    "during ask": "ask, .*: (before|half|after)",
    "after ask": "ask, left",
    "mid-train": "train, step done",
    "result in hand, not written": "tell, (entered|.* 1: (before|half))",
    "result written, before tell": "tell, .* 1: after",
    "during tell": "tell, .* [2-9]: (before|half|after)",
    "after tell": "tell, left",
    "leading, nothing written": "lead, (entered|proposal worked out)|append, (entered|.*: (before|half))",
    "leading, written": "append, (left|.*: after)|lead, leaving",
}
"""Steps at which somebody has to be killed, and what :mod:`steps` calls them."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * GIVE_UP_SECONDS)]


@dataclass
class Weather:
    """Something that happens to database or network once a share of the trials has begun."""

    share: float
    name: str
    begin: Callable[[], object]
    end: Callable[[], object] = lambda: None
    seconds: float = 0.0


@dataclass
class Storm:
    """One campaign, its workers, and what is done to them."""

    nursery: Any
    folder: Path
    n_workers: int
    n_trials: int
    fates: list[str]
    """Steps at which workers die, one after the other."""
    outside: list[float] = field(default_factory=list)
    """Shares of the trials after which a worker is killed, whatever it does."""
    leaders: list[float] = field(default_factory=list)
    """The same, of the one who works out a proposal."""
    weather: list[Weather] = field(default_factory=list)
    elsewhere: bool = False
    """Half of the workers claim to be on machines of their own, so that only leases tell that they are dead."""
    seed: int = 1
    gave_up: int = 0
    kills: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._alive: dict[int, str] = {}
        self._struck: set[int] = set()
        self._ends: list[tuple[float, Callable[[], object]]] = []
        self._lines = self._tail()
        self._asked, self._leader = -1, 0
        self._stopped: set[int] = set()
        self._messages: dict[int, str] = {}
        self._started = 0

    def _tail(self) -> Iterator[dict[str, Any] | None]:
        """Yield the events that come, None when there is none for now."""
        path, rest = self.folder / "events.jsonl", ""
        path.touch()
        with path.open() as file:
            while True:
                rest += file.readline()
                if rest.endswith("\n"):
                    yield json.loads(rest)
                    rest = ""
                else:
                    yield None

    def _look(self) -> None:
        while (event := next(self._lines)) is not None:
            if event["what"] == "asked":
                self._asked = max(self._asked, event["trial"])
            elif event["what"] in ("leads", "led"):
                self._leader = event["pid"] if event["what"] == "leads" else 0
            elif event["what"] == "killed":
                self._alive[event["pid"]] = ""  # its fate is done
            elif event["what"] == "ended" and event["asked"]:
                self._stopped.add(event["pid"])
            elif "message" in event:
                self._messages[event["pid"]] = event["message"]

    def _start(self, fate: str | None = None) -> int:
        if fate is None:
            fate = self.fates.pop(0) if self.fates else ""
        self._started += 1
        host = f"elsewhere-{self._started}" if self.elsewhere and self._started % 2 else ""
        skip = int(not fate.startswith("open") and self._draw.random() < 0.25)
        pid: int = self.nursery("start", fate=fate, skip=skip, host=host)
        self._alive[pid] = fate
        return pid

    def create(self, fates: Sequence[str]) -> None:
        """Let one worker after the other create the campaign and die at it, until one has begun a trial."""
        for fate in fates:
            self._start(fate)
            while self._alive and self._asked < 0:
                self._bury()
                time.sleep(0.01)
            if self._asked >= 0:
                return

    def run(self) -> None:
        """Return once every worker has found that there is nothing left to do."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while len(self._alive) < self.n_workers:
            self._start()
        while self._alive or self._ends:
            assert time.monotonic() < give_up, "the campaign stands still"
            for _ in range(self._bury()):
                self._start()
            self._strike()
            time.sleep(0.005)
        unspent = [*self.fates, *self.outside, *self.leaders, *(weather.name for weather in self.weather)]
        assert not unspent, f"the campaign was over before {unspent}"

    def _bury(self) -> int:
        """Take note of workers that have ended, and return how many have to be replaced."""
        to_replace = 0
        ended = self.nursery("ended")
        self._look()
        for pid, code in ended:
            fate = self._alive.pop(pid)
            if fate and not fate.startswith("open"):  # there is nothing to create any more
                self.fates.insert(0, fate)
            self.kills += code == KILLED
            self.gave_up += code == GAVE_UP
            assert code in (0, KILLED, GAVE_UP), self._messages.get(pid, f"exit code {code}")
            to_replace += code != 0 or pid in self._stopped
        return to_replace

    def _strike(self) -> None:
        share = (self._asked + 1) / self.n_trials
        now = time.monotonic()
        for end in [end for end in self._ends if end[0] <= now]:
            end[1]()
            self._ends.remove(end)
        if not self._ends and self.weather and share >= self.weather[0].share:
            weather = self.weather.pop(0)
            weather.begin()
            self._ends.append((time.monotonic() + weather.seconds, weather.end))
        if self.outside and share >= self.outside[0] and self._kill(self._draw.choice(list(self._alive))):
            self.outside.pop(0)
        if self.leaders and share >= self.leaders[0] and self._leader and self._kill(self._leader):
            self.leaders.pop(0)

    def _kill(self, pid: int) -> bool:
        if pid in self._struck or pid not in self._alive:
            return False
        self._struck.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def passed(nursery: Any, folder: Path, storage: str) -> Counter[str]:
    """Return the steps that a worker passes which is left alone, on a campaign of its own."""
    folder.mkdir()
    nursery("start", alone=True, storage=storage, folder=str(folder))
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not (ended := nursery("ended")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended[0][1] == 0, (folder / "events.jsonl").read_text()
    return Counter(events(folder)[-1]["reached"])


def deck(steps: Sequence[str], n: int, seed: int) -> list[str]:
    """Return ``n`` steps to die at, each as often as any other, in no order."""
    draw = random.Random(seed)
    cards = [step for _ in range(-(-n // len(steps))) for step in draw.sample(list(steps), len(steps))][:n]
    draw.shuffle(cards)
    return cards


def one_of_each(steps: Sequence[str], seed: int) -> list[str]:
    """Return a step for every one of the protocol's, and one more of any."""
    draw = random.Random(seed)
    found = [[step for step in steps if re.fullmatch(pattern, step)] for pattern in PROTOCOL.values()]
    return [draw.choice(matching) for matching in found if matching]


def spread(n: int) -> list[float]:
    """Return ``n`` shares of a campaign's trials, all in its first three quarters."""
    return [0.05 + 0.7 * index / max(n, 1) for index in range(n)]


def assert_undisturbed(storage: str, name: str, expected: Sequence[Row], happened: Sequence[Mapping[str, Any]]) -> None:
    """Nothing lost, nothing twice, the budget exact, nothing left open."""
    ledger = Ledger(storage, name=name)
    rows = ledger.rows()
    assert [row.trial.proposal for row in rows] == [row.trial.proposal for row in expected]
    assert rows == list(expected)  # designs, scales, seeds, reasons, costs and runs, bit for bit
    budget = budget_of(ledger.problem.budget_flops, rows)
    assert budget.reserved == 0
    assert budget.settled == sum(run.paid_flops for row in expected for run in row.runs) <= budget.total

    study = optuna.load_study(study_name=name, storage=open_storage(storage, scope=name)[0])  # not through the ledger
    assert [trial.number for trial in study.trials] == list(range(len(expected)))
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "PRUNED"}
    kept = [run for trial in study.trials for run in trial.user_attrs["runs"]]
    assert sum(run["paid_flops"] for run in kept) == budget.settled
    keys = [(run["run_key"], run["tokens"]) for run in kept]
    assert len(keys) == len(set(keys))

    accepted = [event for event in happened if event["what"] == "told" and event["accepted"]]
    # A claim may bring its result twice, itself and through the outbox, when the answer was lost; two claims may not.
    brought = Counter(trial for trial, _ in {(event["trial"], event["token"]) for event in accepted})
    assert not [trial for trial, times in brought.items() if times > 1], "counted twice"
    told = {event["trial"]: event["at"] for event in reversed(accepted)}  # the first time
    again = [
        event for event in happened if event["what"] == "asked" and event["began"] > told.get(event["trial"], 1e99)
    ]
    assert not again, "a finished trial was run again"
    tokens = Counter((event["trial"], event["token"]) for event in happened if event["what"] == "asked")
    assert not [token for token, times in tokens.items() if times > 1], "a fencing token was given twice"


def figures(
    kind: str, storm: Storm, expected: Sequence[Row], happened: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """Return what was done to a campaign."""
    killed = Counter(event["step"] for event in happened if event["what"] == "killed")
    named = {
        name: sum(times for step, times in killed.items() if re.fullmatch(pattern, step))
        for name, pattern in PROTOCOL.items()
    }
    first = Counter((event["trial"], event["step"]) for event in happened if event["what"] == "trained")
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "kind": kind,
        "workers": storm.n_workers,
        "trials": len(expected),
        "kills": storm.kills,
        "kills at steps": sum(killed.values()),
        "kills by step": named,
        "kills elsewhere": {
            step: times
            for step, times in sorted(killed.items())
            if not any(re.fullmatch(p, step) for p in PROTOCOL.values())
        },
        "different steps": len(killed),
        "gave up": storm.gave_up,
        "training steps": len(first),
        "training steps repeated": sum(first.values()) - len(first),
        "seconds": round(seconds, 1),
    }
    if path := os.environ.get("MOE_SEARCH_CHAOS_FIGURES"):
        with Path(path).open("a") as file:
            print(json.dumps(line), file=file)
    return line


@pytest.fixture
def database(postgresql_server: Any, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that creates an empty database and returns its name."""

    def create(name: str) -> str:
        with psycopg.connect(
            host="127.0.0.1", port=postgresql_server.port, user="postgres", autocommit=True
        ) as session:
            session.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            session.execute(f"CREATE DATABASE {name}")
        return name

    return create


def bad_weather(server: Any, network: Any, draw: random.Random) -> list[Weather]:
    """Return two restarts of the database, cuts of the network, and connections that one side believes in."""
    one = lambda: network.cut_one(draw.randrange)  # noqa: E731
    every = [
        Weather(0.20, "database restarted", lambda: server.stop(signal.SIGINT), server.start, 1.0),
        Weather(0.30, "network cut", network.cut, network.heal, 4.0),
        *(Weather(0.32 + 0.02 * index, "one connection cut", one) for index in range(5)),
        Weather(0.45, "network stalled", network.stall, network.heal, 3.0),
        Weather(0.55, "database killed", lambda: server.stop(signal.SIGQUIT), server.start, 1.0),
        Weather(0.65, "clients gone, server knows nothing", lambda: network.half_open(0), network.heal, 3.0),
        Weather(0.75, "server gone, clients know nothing", lambda: network.half_open(1), network.heal, 3.0),
        *(Weather(0.80 + 0.02 * index, "one connection cut", one) for index in range(5)),
    ]
    return every if FULL else [weather for weather in every if weather.name in BOUNDED_WEATHER][:6]


BOUNDED_WEATHER = ("network cut", "one connection cut", "database killed")


def test_workers_on_a_database_server(
    postgresql_server: Any,
    network: Any,
    database: Callable[[str], str],
    new_nursery: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """By default with real proposals."""
    draw = random.Random(7)
    server, name = postgresql_server, "storm"
    direct = server.url.removesuffix("postgres") + database("chaos")
    through = server.url_at(network.port).removesuffix("postgres") + "chaos"
    size = {"tops": 130.0, "lag": 7, "cheap": True} if FULL else {"tops": 5.0, "lag": 3, "cheap": False}
    nursery = new_nursery(through, name=name, lease_seconds=3.0, **size)
    expected = [Row.model_validate(row) for row in nursery("undisturbed")]
    steps = passed(nursery, tmp_path / "alone", server.url.removesuffix("postgres") + database("chaos_alone"))
    storm = a_storm(nursery, tmp_path, expected, sorted(steps), elsewhere=True)
    storm.weather = bad_weather(server, network, draw)
    weathered(storm, expected, "PostgreSQL", direct, name, tmp_path, sorted(steps))


def test_workers_on_a_journal_file(new_nursery: Callable[..., Any], tmp_path: Path) -> None:
    storage, name = str(tmp_path / "journal.log"), "storm"
    size = {"tops": 130.0, "lag": 7} if FULL else {"tops": 9.5, "lag": 3}
    nursery = new_nursery(storage, name=name, lease_seconds=20.0, cheap=True, **size)
    expected = [Row.model_validate(row) for row in nursery("undisturbed")]
    steps = passed(nursery, tmp_path / "alone", str(tmp_path / "alone" / "journal.log"))
    storm = a_storm(nursery, tmp_path, expected, sorted(steps))
    weathered(storm, expected, "journal file", storage, name, tmp_path, sorted(steps))


def a_storm(nursery: Any, folder: Path, expected: Sequence[Row], steps: Sequence[str], **fields: Any) -> Storm:
    """Return a storm of kills at steps and at any time."""
    some = [step for step in steps if not step.startswith("open")]
    fates = one_of_each(some, 3) + deck(some, 120, 4) if FULL else one_of_each(some, 3)
    outside, leaders = (spread(60), spread(20)) if FULL else (spread(2), spread(1))
    return Storm(nursery, folder, 8 if FULL else 4, len(expected), fates, outside=outside, leaders=leaders, **fields)


def weathered(
    storm: Storm, expected: Sequence[Row], kind: str, storage: str, name: str, folder: Path, steps: Sequence[str]
) -> None:
    """Let the storm pass, and see what is left."""
    assert len(expected) >= (200 if FULL else 20)
    opening = [step for step in steps if step.startswith("open")]
    began = time.monotonic()
    storm.create(opening[:: max(len(opening) // (12 if FULL else 2), 1)])
    storm.run()
    seconds = time.monotonic() - began
    happened = events(folder)
    done = figures(kind, storm, expected, happened, seconds)
    assert_undisturbed(storage, name, expected, happened)
    assert done["gave up"] == 0, "workers wait for an absent storage"
    there = {name for name, pattern in PROTOCOL.items() if any(re.fullmatch(pattern, step) for step in steps)}
    # A database stores and tells a result in one statement, so that nobody can die between the two.
    assert set(PROTOCOL) - there == ({"during tell"} if kind == "PostgreSQL" else set())
    assert all(done["kills by step"][name] for name in there), done
    assert done["kills"] >= (200 if FULL else 12), done
