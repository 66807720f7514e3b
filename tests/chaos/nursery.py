"""Forks workers that die as they are told to; a program of its own, so that they share nothing with the test.

It has imported everything and proposed every trial once before it forks, so that a new worker costs milliseconds. It
answers one JSON line on its standard output for each on its input:

========================================== ============================================================================
``{"do": "undisturbed"}``                  the trial table as the definition has it: without any ledger
``{"do": "start", "fate", "skip", "host"}`` the process number of a new worker, which dies at its fate and may claim to
                                           be on another machine
``{"do": "start", "storage", "folder"}``   the same of one that is alone on a campaign of its own, for a few trials with
                                           everything that can happen in them
``{"do": "ended"}``                        process numbers and exit codes of the workers that ended since
========================================== ============================================================================
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps import Events, Steps

from moe_search.search import lease, worker
from moe_search.search.budget import budget_of
from moe_search.search.ledger import Ledger
from moe_search.search.outbox import Outbox
from moe_search.search.patience import Patience
from moe_search.search.problem import Problem
from moe_search.search.trial import Proposal, Report, Row, Trial
from moe_search.search.worker import next_step, work
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.run import Run
from moe_search.spaces.space import SearchSpace

TRAINING_STEPS = 4
UNLUCKY_EVERY = 10
"""One trial in so many raises an exception at its first attempt."""
GAVE_UP, CRASHED = 1, 2
"""Exit codes of a worker: the storage did not answer; anything else."""


def make_world(*, tops: float, lag: int) -> SimulatedWorld:
    """A world some of whose designs diverge; ``tops`` is what the budget pays for at the ladder's top."""
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 8, "log": True},
            "activation_ratio": {"low": 0.06, "high": 0.5, "log": True},
            "n_shared_experts": {"choices": [0, 1]},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.02},
        }
    )
    ladder = Ladder(sizes=(300_000, 1_000_000), tokens=(5_000_000, 10_000_000))
    fields = {"pool_size": 16, "neighbours": 4, "lag": lag, "initial_share": 0.5}
    problem = Problem.model_validate({"space": space, "ladder": ladder, "budget_flops": 1.0} | fields)
    problem = problem.replace(budget_flops=tops * problem.cost(space.center(), ladder.top))
    return SimulatedWorld(problem=problem, seed=3, diverging=0.2)


def cheap(problem: Problem, finished: Sequence[Row], pending: Sequence[Row] = (), n: int = 1) -> list[Proposal]:
    """Draw at random instead of suggesting, by a seed that every result enters: one of them amiss, and all differs."""
    seen = [row.runs[-1].bpb if row.runs else row.message for row in finished], len(pending)
    draw = random.Random(hashlib.blake2b(repr(seen).encode()).hexdigest())
    design = problem.space.sample(1, draw.randrange(2**31), accept=problem.is_feasible)[0]
    scale, cheapest = draw.choice(problem.ladder.scales()), problem.ladder.scales()[0]
    remaining = budget_of(problem.budget_flops, finished, pending).remaining
    if problem.cost(design, scale) > remaining:
        scale = cheapest
    cost = problem.cost(design, scale)
    number = len(finished) + len(pending)
    proposal = Proposal(design=design, scale=scale, seed=number, reason="drawn at random", predicted_cost=cost)
    return [proposal] if cost <= remaining else []


def undisturbed(world: SimulatedWorld) -> list[Row]:
    """The trial table by the definition: proposals one after the other."""
    rows: list[Row] = []
    while not isinstance(step := next_step(world.problem, rows), str):
        trial = world.problem.trial(len(rows), step)
        runs = world.evaluate(trial, lambda loss, tokens: None)
        rows.append(Row(trial=trial, state="finished", runs=tuple(runs)))
    return rows


class Worker:
    """A worker process, from its birth to its end."""

    def __init__(self, place: argparse.Namespace, world: SimulatedWorld, order: dict[str, Any]) -> None:
        self._world = world
        self._storage, self._folder = order.get("storage", place.storage), Path(order.get("folder", place.folder))
        self._name, self._lease_seconds = place.name, place.lease_seconds
        self._is_alone = "storage" in order
        self._fate: str = order.get("fate") or ""
        self._events = Events(self._folder / "events.jsonl")
        self._steps = Steps(self._events, self._fate, order.get("skip", 0))
        self._is_asked_to_stop = False
        self._chance = random.Random(os.getpid())
        if host := order.get("host"):  # nobody sees its death; its leases have to run out
            lease.this_host = lambda: host  # type: ignore[assignment]

    def live(self) -> int:
        """Work, and return the exit code."""
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        self._steps.install()
        try:
            ledger = Patience()(
                lambda: Ledger(
                    self._storage, name=self._name, problem=self._world.problem, lease_seconds=self._lease_seconds
                )
            )
            work(
                ledger,
                self._world.problem,
                self._evaluate,
                stop=lambda: self._is_asked_to_stop,
                heartbeat_seconds=self._lease_seconds / 10,
                report_seconds=0.0,
                outbox=Outbox(self._folder / "outbox"),
            )
        except ResourceError as error:
            self._events("gave up", message=str(error))
            return GAVE_UP
        except BaseException:  # noqa: BLE001 - the test shows it
            self._events("crashed", message=traceback.format_exc())
            return CRASHED
        self._events("ended", reached=self._steps.reached, asked=self._is_asked_to_stop)
        return 0

    def _asked_to_stop(self, *_: object) -> None:
        self._is_asked_to_stop = True

    def _evaluate(self, trial: Trial, report: Report) -> list[Run]:
        """Train for a moment, with a checkpoint after every step, and do what the fate needs."""
        is_last_alone = self._is_alone and trial.number > UNLUCKY_EVERY
        checkpoint = self._folder / f"{trial.run_key}.checkpoint"
        done = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for step in range(done, TRAINING_STEPS):
            report(5.0 - step, step + 1)
            time.sleep(self._chance.uniform(0.0, 0.03))
            if is_last_alone or self._fate.startswith("heartbeat"):
                time.sleep(self._lease_seconds / 4)
            self._steps("train, step done")
            self._events("trained", trial=trial.number, step=step)
            own = checkpoint.with_suffix(f".{os.getpid()}")
            own.write_text(str(step + 1))
            own.replace(checkpoint)
        if is_last_alone or self._fate.startswith("give back"):
            self._is_asked_to_stop = True
        is_unlucky = self._fate.startswith("fail") or trial.number % UNLUCKY_EVERY == UNLUCKY_EVERY - 1
        raised = self._folder / f"{trial.run_key}.raised"
        if is_unlucky and not raised.exists():
            raised.touch()  # once a trial: three times would be a failure
            raise RuntimeError("an unlucky moment")
        return self._world.evaluate(trial, report)


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--lease-seconds", type=float, required=True)
    parser.add_argument("--tops", type=float, required=True)
    parser.add_argument("--lag", type=int, required=True)
    parser.add_argument("--cheap", action="store_true")
    place = parser.parse_args()
    world = make_world(tops=place.tops, lag=place.lag)
    if place.cheap:
        worker.suggest = cheap  # type: ignore[attr-defined]
    for line in sys.stdin:
        order = json.loads(line)
        answer: object
        if order["do"] == "undisturbed":
            answer = [row.model_dump(mode="json") for row in undisturbed(world)]
        elif order["do"] == "start":
            answer = os.fork()
            if answer == 0:
                os._exit(Worker(place, world, order).live())
        else:
            answer = ended()
        print(json.dumps(answer), flush=True)


def ended() -> list[tuple[int, int]]:
    """Return process numbers and exit codes of the children that ended since it was last asked."""
    found = []
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return found
            found.append((pid, os.waitstatus_to_exitcode(status)))
    except ChildProcessError:
        return found


if __name__ == "__main__":
    main()
