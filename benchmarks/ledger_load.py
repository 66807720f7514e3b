"""Measure what a trial costs a PostgreSQL database, and so what share of it many workers take.

    python benchmarks/ledger_load.py postgresql+psycopg://postgres@127.0.0.1/empty -o results/DATE-ledger-load.json

The server runs on this machine, so that the CPU seconds of all its processes can be read from ``/proc``. Workers are
the real loop (:func:`moe_search.search.worker.work`) on the real ledger, a connection pool each, as threads of a few
processes; they train nothing and sleep. Time is compressed ``--speed`` fold: a trial of ten minutes, with its renewals
of the lease every 30 seconds and all the live values that one may write, takes 600 / speed seconds. Proposals are drawn
at random, because it is the database that is measured; the table is read for them as always.
"""

import argparse
import json
import os
import platform
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import psycopg
import sqlalchemy

from moe_search.search import worker
from moe_search.search.ledger import Ledger
from moe_search.search.lifeline import LIVE_VALUES
from moe_search.search.patience import Patience
from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal, Report, Row, Trial
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.run import Run
from moe_search.spaces.space import SearchSpace

TRIAL_SECONDS, HEARTBEAT_SECONDS, MANY = 600.0, 30.0, 1000
"""Of a real trial; of a real worker; the workers whose share is worked out."""
PROCESSES = 4
NAME = "load"


def make_world(workers: int) -> SimulatedWorld:
    """Return a world whose budget does not end, with as many trials in flight as there are workers."""
    space = SearchSpace.model_validate(
        {"granularity": {"low": 1, "high": 8}, "mixture": {"domains": ["code", "prose", "web"], "floor": 0.02}}
    )
    ladder = Ladder(sizes=(300_000,), tokens=(5_000_000,))
    problem = Problem.model_validate({"space": space, "ladder": ladder, "budget_flops": 1e30, "lag": workers - 1})
    return SimulatedWorld(problem=problem.replace(initial_share=1e-20), seed=0)


def drawn(problem: Problem, finished: Sequence[Row], pending: Sequence[Row] = (), n: int = 1) -> list[Proposal]:
    """Stand in for the search: one design, another seed each time."""
    del n
    number, scale = len(finished) + len(pending), problem.ladder.top
    design = problem.space.center()
    cost = problem.cost(design, scale)
    return [Proposal(design=design, scale=scale, seed=number, reason="load", predicted_cost=cost)]


def live(url: str, workers: int, total: int, *, speed: float, until: float) -> None:
    """Run some workers as threads of this process."""
    worker.suggest = drawn  # type: ignore[attr-defined]
    world = make_world(total)
    draw = random.Random(os.getpid())

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        for step in range(LIVE_VALUES):
            time.sleep(TRIAL_SECONDS / speed / LIVE_VALUES * draw.uniform(0.8, 1.2))
            report(5.0 - step / LIVE_VALUES, round((step + 1) * trial.scale.tokens / LIVE_VALUES))
        return world.evaluate(trial, lambda loss, tokens: None)

    def one(index: int) -> None:
        time.sleep(index * TRIAL_SECONDS / speed / workers)  # out of step, as workers are after a while
        ledger = Patience()(Ledger, url, name=NAME, lease_seconds=4 * HEARTBEAT_SECONDS / speed)
        worker.work(
            ledger,
            world.problem,
            evaluate,
            owner=f"{os.getpid()}:{index}",
            stop=lambda: time.time() > until,
            heartbeat_seconds=HEARTBEAT_SECONDS / speed,
            report_seconds=ledger.live_seconds / speed,
        )

    threads = [threading.Thread(target=one, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Server:
    """What the database's processes have done so far."""

    def __init__(self, url: str) -> None:
        parts = sqlalchemy.make_url(url)
        self._session = psycopg.connect(
            host=parts.host, port=parts.port, user=parts.username, password=parts.password, dbname=parts.database,
            autocommit=True,
        )  # fmt: skip
        self._postmaster = _fields(self._session.info.backend_pid)[1]

    def cpu_seconds(self) -> float:
        """Return user and system time of the postmaster, its children, and those that have ended."""
        ticks = sum(map(int, _fields(int(self._postmaster))[11:15]))
        for path in Path("/proc").glob("[0-9]*/stat"):
            fields = _fields(int(path.parent.name))
            if fields and fields[1] == self._postmaster:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def counters(self) -> dict[str, int]:
        """Return transactions and rows touched in this database, and its connections."""
        row = self._session.execute(
            "SELECT xact_commit + xact_rollback, tup_fetched + tup_returned, tup_inserted + tup_updated, numbackends"
            " FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        return dict(zip(("transactions", "rows_read", "rows_written", "connections"), map(int, row), strict=True))

    def version(self) -> str:
        """Return ``15.13``, say."""
        return str(self._session.execute("SHOW server_version").fetchone()[0])  # type: ignore[index]


def _fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on; none if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Of an empty database on this machine.")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--speed", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    Ledger(asked.url, name=NAME, problem=make_world(asked.workers).problem)
    server, context = Server(asked.url), get_context("spawn")
    warm_up = 20 + 2 * TRIAL_SECONDS / asked.speed
    until = time.time() + warm_up + asked.seconds
    arguments = (asked.url, asked.workers // PROCESSES, asked.workers)
    named = {"speed": asked.speed, "until": until}
    processes = [context.Process(target=live, args=arguments, kwargs=named) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    time.sleep(warm_up)  # until all are up and in their second trial
    ledger = Ledger(asked.url, name=NAME)

    def ended() -> int:
        return sum(not row.is_open for row in ledger.rows())

    began, first, cpu, before = time.time(), ended(), server.cpu_seconds(), server.counters()
    time.sleep(max(until - time.time() - 1, 1))
    cpu, after = server.cpu_seconds() - cpu, server.counters()
    trials, seconds = ended() - first, time.time() - began
    for process in processes:
        process.join()
    a_trial = {name: round((after[name] - before[name]) / trials, 1) for name in after if name != "connections"}
    cpu_a_trial = cpu / trials
    content = {
        "format": 1,
        "what": "ledger load",
        "machine": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "postgresql": server.version(),
            "python": platform.python_version(),
        },
        "workers": asked.workers,
        "speed": asked.speed,
        "seconds": round(seconds, 1),
        "trials": trials,
        "trials_in_table": ended(),
        "a_trial": a_trial | {"server_cpu_seconds": round(cpu_a_trial, 5)},
        "connections_a_worker": round((after["connections"] - 2) / asked.workers, 2),
        "share_of_one_core_by_1000_workers": round(cpu_a_trial * MANY / TRIAL_SECONDS, 4),
    }
    print(json.dumps(content, indent=1))
    if asked.output:
        asked.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
