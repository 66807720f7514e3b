"""Worker processes of this machine: started, watched, started again when one dies, stopped with their state saved."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moe_search.experiments.cli.exits import ExitCode
from moe_search.spaces.errors import InvalidInputError, ResourceError

MAX_RESTARTS = 3
"""Of one worker; more deaths than that are no accident."""
LEAST_FREE_BYTES = 1_000_000
"""Below this a disk counts as full: a worker cannot even say why it died."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    restarts: int = 0


@dataclass
class WorkerPool:
    """The workers of one ``moe-search run``.

    Args:
        arguments: what follows ``python -m moe_search``.
        threads: CPU threads of each.
        logs: folder for what they say.
    """

    arguments: Sequence[str]
    threads: int
    logs: Path
    _workers: list[_Worker] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start ``count`` workers."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            log = self.logs / f"worker-{index + 1}.log"
            self._workers.append(_Worker(self._spawn(log), log))

    def _spawn(self, log: Path) -> subprocess.Popen[bytes]:
        threads = str(self.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with log.open("ab") as handle:
            # A session of its own: Ctrl-C reaches the parent alone, which then stops the workers in order.
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-m", "moe_search", *self.arguments, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                env=environment,
                start_new_session=True,
            )

    def tend(self) -> int:
        """Restart workers that died and return how many are at work; 0 once all have found nothing left to do.

        Raises:
            InvalidInputError: a worker refused the specification.
            ResourceError: a worker died again and again.
        """
        alive = 0
        for worker in self._workers:
            code = worker.process.poll()
            if code == ExitCode.DONE:
                continue
            if code is not None:
                self._revive(worker, code)
            alive += 1
        return alive

    def _revive(self, worker: _Worker, code: int) -> None:
        if code == ExitCode.USAGE:
            raise InvalidInputError(_last_words(worker.log))
        if shutil.disk_usage(self.logs).free < LEAST_FREE_BYTES:
            raise ResourceError(f"a worker died because the disk of {self.logs} is full; free some space, then go on")
        if worker.restarts >= MAX_RESTARTS:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ResourceError(f"a worker died {worker.restarts + 1} times ({how}): {_last_words(worker.log)}")
        worker.restarts += 1
        worker.process = self._spawn(worker.log)

    def stop(self, patience: float = 30.0) -> None:
        """Ask every worker to save its state and end; after ``patience`` seconds end it without asking."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + patience
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].removeprefix('error: ') if lines else 'it said nothing'} (see {log})"
