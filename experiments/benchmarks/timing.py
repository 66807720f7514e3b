"""Fair timings on a machine that is not ours alone: pinned, interleaved, with thread CPU time beside the wall clock.

Every round runs every contestant once, in a new order, so that a slow minute hits all of them; ratios are taken within
a round. What changes from step to step in training (the routing) is drawn anew before each round: a kernel that is
compiled for one routing must not be timed on that routing alone.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from moe_search.kernels.native.memory import keep_freed_memory
from moe_search.spaces.errors import InvalidInputError

LEAST_ROUNDS = 3
"""Rounds that even the slowest contestant takes part in, if so many are wanted."""
PATIENCE_SECONDS = 20.0
"""After this long in all a contestant sits out, once it has been in ``LEAST_ROUNDS``."""


@dataclass(frozen=True)
class Timed:
    """Seconds of one contestant by round."""

    wall: Mapping[int, float]
    cpu: Mapping[int, float]
    """CPU time: of the timing thread where one is used, else of the whole process."""


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)

    def as_json(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"median": self.median, "low": self.low, "high": self.high}


def _allowed_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0), reverse=True)
    return list(range(os.cpu_count() or 1))


def check_cores(threads: int) -> None:
    """Refuse more threads, in all processes together, than this process may use cores.

    Raises:
        InvalidInputError: there are fewer cores.
    """
    cores = len(_allowed_cores())
    if threads > cores:
        raise InvalidInputError(
            f"{threads} threads on {cores} cores would take turns, which is no measurement",
            where="--threads",
            allowed=f"1 to {cores} in all processes together",
        )


@contextmanager
def pinned(threads: int, first: int = 0) -> Iterator[tuple[int, ...]]:
    """Give PyTorch ``threads`` threads on as many cores, and put everything back afterwards.

    Args:
        threads: of PyTorch.
        first: cores to leave out, counted from the last: where a second process is to have its own.

    Yields:
        The cores; empty where the system cannot pin.

    Raises:
        InvalidInputError: there are fewer cores.
    """
    before, allowed = torch.get_num_threads(), _allowed_cores()
    check_cores(first + threads)
    cores = tuple(allowed[first : first + threads])
    can_pin = hasattr(os, "sched_setaffinity")
    torch.set_num_threads(threads)
    keep_freed_memory()  # as training does: page faults are nobody's kernel
    if can_pin:
        os.sched_setaffinity(0, cores)
    try:
        yield cores if can_pin else ()
    finally:
        torch.set_num_threads(before)
        if can_pin:
            os.sched_setaffinity(0, allowed)


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    threads: int = 1,
    fresh: Callable[[int], None] = lambda _: None,
    synchronise: Callable[[], None] = lambda: None,
    patience: float = PATIENCE_SECONDS,
) -> dict[str, Timed]:
    """Time every task once a round.

    Args:
        tasks: by name; what they return is dropped outside the timed part.
        rounds: how many.
        threads: of PyTorch; with one, CPU time is that of this thread.
        fresh: prepares a round, from its number.
        synchronise: waits for the device.
        patience: seconds in all after which a slow task sits out.
    """
    cpu_clock = time.thread_time if threads == 1 else time.process_time
    wall: dict[str, dict[int, float]] = {name: {} for name in tasks}
    cpu: dict[str, dict[int, float]] = {name: {} for name in tasks}
    order, draw = list(tasks), random.Random(0)
    for number in range(rounds):
        fresh(number)
        draw.shuffle(order)
        for name in order:
            if number >= LEAST_ROUNDS and sum(wall[name].values()) > patience:
                continue
            synchronise()
            cpu_began, began = cpu_clock(), time.perf_counter()
            result = tasks[name]()
            synchronise()
            wall[name][number], cpu[name][number] = time.perf_counter() - began, cpu_clock() - cpu_began
            del result
    return {name: Timed(wall[name], cpu[name]) for name in tasks}


def ratio(slower: Mapping[int, float], faster: Mapping[int, float]) -> Spread:
    """Return how many times as long the first took as the second, over the rounds that both were in."""
    return Spread.of([slower[number] / faster[number] for number in sorted(slower.keys() & faster.keys())])
