"""Several one-step processes at once: how much of a machine proxies trained side by side really get."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

from moe_search.experiments.benchmarks.contestants import forget_gradients, run
from moe_search.experiments.benchmarks.families import Setting
from moe_search.experiments.benchmarks.steps import step_case
from moe_search.experiments.benchmarks.timing import pinned
from moe_search.scaling.throughput import StepShape
from moe_search.spaces.errors import ResourceError

WARM_UP_STEPS = 2
PATIENCE_SECONDS = 600.0


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
    before = sum(_together(1, shape, setting, threads, seconds))
    log(f"{processes} processes at once")
    each = _together(processes, shape, setting, threads, seconds)
    log("one process again")
    after = sum(_together(1, shape, setting, threads, seconds))
    alone = (before + after) / 2
    return {
        "processes": processes,
        "threads_each": threads,
        "shape": shape.model_dump(),
        "dtype": setting.dtype,
        "tokens_per_second_alone": alone,
        "tokens_per_second_alone_before_and_after": [before, after],
        "tokens_per_second_each": each,
        "tokens_per_second_together": sum(each),
        "times": sum(each) / alone,
    }


def _together(processes: int, shape: StepShape, setting: Setting, threads: int, seconds: float) -> list[float]:
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
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            case.fresh(steps)
            run(ours)
            forget_gradients(ours)
            steps += 1
        results.put(steps * case.tokens / (time.perf_counter() - began))
