"""Several one-step processes at once: how much of a machine proxies trained side by side really get."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from moe_search.experiments.benchmarks.contestants import forget_gradients, run
from moe_search.experiments.benchmarks.families import Setting
from moe_search.experiments.benchmarks.steps import step_case
from moe_search.experiments.benchmarks.timing import pinned
from moe_search.scaling.throughput import StepShape
from moe_search.spaces.errors import ResourceError

WARM_UP_STEPS = 2
PATIENCE_SECONDS = 600.0


class Rate(NamedTuple):
    """Tokens of one process."""

    wall: float
    """A second on the wall."""
    cpu: float
    """A second of the processor: other programs do not disturb it, a shared cache or memory does."""


def scaling(
    shape: StepShape,
    setting: Setting,
    *,
    processes: int,
    threads: int,
    seconds: float,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the tokens a second of one process and of several, each on cores of its own.

    One process is timed before and after the others, and the mean of both is the yardstick.

    Args:
        shape: of our model.
        setting: of its step.
        processes: how many at once.
        threads: of each.
        seconds: that each measurement lasts at the least.
        log: told what is being measured.
    """
    log("one process")
    (before,) = _together(1, shape, setting, threads, seconds)
    log(f"{processes} processes at once")
    each = _together(processes, shape, setting, threads, seconds)
    log("one process again")
    (after,) = _together(1, shape, setting, threads, seconds)
    alone, together = (before.wall + after.wall) / 2, sum(rate.wall for rate in each)
    return {
        "processes": processes,
        "threads_each": threads,
        "shape": shape.model_dump(),
        "dtype": setting.dtype,
        "tokens_per_second_alone": alone,
        "tokens_per_second_alone_before_and_after": [before.wall, after.wall],
        "tokens_per_second_each": [rate.wall for rate in each],
        "tokens_per_second_together": together,
        "times": together / alone,
        "times_by_cpu_time": sum(rate.cpu for rate in each) / ((before.cpu + after.cpu) / 2),
    }


def _together(processes: int, shape: StepShape, setting: Setting, threads: int, seconds: float) -> list[Rate]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    shared: dict[str, Any] = {
        "shape": shape,
        "setting": setting,
        "threads": threads,
        "seconds": seconds,
        "barrier": barrier,
        "results": results,
    }
    workers = [context.Process(target=_work, args=(number,), kwargs=shared, daemon=True) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_SECONDS + 4 * seconds)
    if any(worker.exitcode != 0 for worker in workers):
        for worker in workers:
            worker.kill()
        raise ResourceError("a process of the scaling measurement failed; its message is above")
    return [results.get() for _ in workers]


def _work(
    number: int, *, shape: StepShape, setting: Setting, threads: int, seconds: float, barrier: Barrier, results: Any
) -> None:
    """Step from the common start until the time is up; put the tokens a second into ``results``."""
    with pinned(threads, first=number * threads):
        case = step_case(shape, setting, ours_alone=True)
        (ours,) = case.contestants
        for _ in range(WARM_UP_STEPS):
            run(ours)
            forget_gradients(ours)
        barrier.wait(PATIENCE_SECONDS)
        began, cpu_began, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            case.fresh(steps)
            run(ours)
            forget_gradients(ours)
            steps += 1
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        results.put(Rate(steps * case.tokens / wall, steps * case.tokens / cpu))
