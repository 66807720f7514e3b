"""Worker processes of this machine: started, watched, started again when one dies, stopped with their state saved.

Each gets GPUs of its own where there are any, by ``CUDA_VISIBLE_DEVICES``, and else, if it has several threads, cores
of its own: threads that wait for one another at every kernel lose more to a neighbour on one of their cores than
workers of one thread, which the kernel moves about well enough.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moe_search.search.launching import (
    MARGIN_SECONDS,
    Code,
    Crew,
    Ended,
    Lives,
    last_words,
    spawn,
    thread_variables,
)
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class LocalOptions(Frozen):
    """How workers share this machine."""

    gpus: tuple[int | str, ...] | None = None
    """CUDA devices, as in CUDA_VISIBLE_DEVICES; workers take their share in turn. None: all there are; []: none."""
    pin_cores: bool = True
    """Keep workers of several threads to cores of their own, if there are enough."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]
    cores: frozenset[int] | None
    lives: Lives


class LocalWorkers:
    """Workers as child processes.

    Args:
        crew: whom to start.
        options: how they share the machine.

    Raises:
        InvalidInputError: fewer GPUs than one worker needs.
    """

    def __init__(self, crew: Crew, options: LocalOptions) -> None:
        self._crew, self._options = crew, options
        self._gpus = visible_gpus() if options.gpus is None else tuple(str(gpu) for gpu in options.gpus)
        if 0 < len(self._gpus) < crew.devices:
            raise InvalidInputError(
                f"a worker trains on {crew.devices} devices but {len(self._gpus)} are there ({', '.join(self._gpus)})",
                where="workers.local.gpus",
                fix=f"name {crew.devices} or more",
            )
        self._workers: list[_Worker] = []

    def start(self, count: int) -> None:
        """Start ``count`` workers."""
        can_pin = hasattr(os, "sched_setaffinity")  # Linux
        pinned = can_pin and self._options.pin_cores and self._crew.cores > 1 and not self._gpus
        groups = core_groups(_free_cores(), count, self._crew.cores) if pinned else None
        for index in range(count):
            environment = thread_variables(self._crew.threads)
            if self._options.gpus is not None or self._gpus:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(share(self._gpus, self._crew.devices, index))
            log = self._crew.logs / f"worker-{index + 1}.log"
            cores = groups[index] if groups else None
            process = self._spawn(log, environment, cores)
            self._workers.append(_Worker(process, log, environment, cores, Lives(self._crew.logs)))

    def _spawn(self, log: Path, environment: dict[str, str], cores: frozenset[int] | None) -> subprocess.Popen[bytes]:
        process = spawn(self._crew.arguments, log, environment)
        if cores is not None:
            with suppress(ProcessLookupError):  # it has no threads yet; those that it starts keep to the same cores
                os.sched_setaffinity(process.pid, cores)
        return process

    def tend(self) -> int:
        """Restart workers that died and return how many are at work; 0 once all have found nothing left to do."""
        alive = 0
        for worker in self._workers:
            code = worker.process.poll()
            if code == Code.DONE:
                continue
            if code is not None:
                worker.lives.end(Ended(code, last_words(worker.log)))
                worker.process = self._spawn(worker.log, worker.environment, worker.cores)
                worker.lives.begin()
            alive += 1
        return alive

    def stop(self) -> None:
        """Ask every worker to save its state and end; after the grace period end it without asking."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._crew.grace_seconds + MARGIN_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


OPTIONS, LAUNCHER = LocalOptions, LocalWorkers


def visible_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch  # noqa: PLC0415 - the options above are read by commands that need no torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(str(index) for index in range(count))


def share(gpus: Sequence[str], each: int, index: int) -> list[str]:
    """Return the devices of worker ``index``; when all are taken, the first ones are shared."""
    teams = max(len(gpus) // each, 1)
    first = index % teams * each
    return list(gpus[first : first + each])


def core_groups(cores: Sequence[frozenset[int]], count: int, each: int) -> list[frozenset[int]] | None:
    """Deal cores to workers, neighbours together.

    Args:
        cores: the logical CPUs of each physical core, in the order of sockets.
        count: workers.
        each: threads of one.

    Returns:
        The logical CPUs of each worker: ``each`` physical cores, or logical ones where there are too few of those; None
        if there are too few of both, so that the kernel decides.
    """
    units = list(cores)
    if count * each > len(units):
        units = [frozenset({cpu}) for core in cores for cpu in sorted(core)]
    if count * each > len(units):
        return None
    return [frozenset().union(*units[index * each : (index + 1) * each]) for index in range(count)]


def _free_cores() -> list[frozenset[int]]:
    """Return the physical cores that this process may use and that workers of no other campaign are kept to."""
    taken: set[int] = set()
    everywhere = os.sched_getaffinity(0)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"moe_search" in words and b"worker" in words:
                kept_to = os.sched_getaffinity(int(process.name))
                taken |= kept_to if kept_to < everywhere else set()
    cores: dict[tuple[str, ...], set[int]] = {}
    for cpu in sorted(everywhere - taken):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            names = ("physical_package_id", "core_id")
            key = tuple((topology / name).read_text().strip().zfill(6) for name in names)
        except OSError:
            key = ("", f"{cpu:06d}")
        cores.setdefault(key, set()).add(cpu)
    return [frozenset(cores[key]) for key in sorted(cores)]
