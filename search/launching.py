"""What launchers have in common: whom they start, how a worker ended, how often it may die, how it is asked to stop.

A *launcher* brings worker processes to machines and watches them; what a worker does is the same everywhere
(:func:`moe_search.search.worker.work`). Launchers know a worker as a command line, its exit code and its log.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from moe_search.spaces.errors import InvalidInputError, ResourceError

MAX_RESTARTS = 3
"""Of one worker in a row; more deaths than that are no accident."""
LONG_LIFE_SECONDS = 600.0
"""A worker that lived for so long was well: the restarts before it no longer count."""
MARGIN_SECONDS = 5.0
"""Beyond the grace period, in which a worker ends itself at the latest, for whoever waits for it."""
LEAST_FREE_BYTES = 1_000_000
"""Below this a disk counts as full: a worker cannot even say why it died."""


class Code(IntEnum):
    """What the exit code of a worker says; anything else is a death."""

    DONE = 0
    """Nothing is left to do."""
    USAGE = 2
    """The specification or the machine has to be mended."""
    INTERRUPTED = 130
    """It was asked to stop, and has given its trial back."""


@dataclass(frozen=True)
class Crew:
    """The workers of one ``moe-search run``, wherever they are started."""

    name: str
    """Of the campaign."""
    arguments: Sequence[str]
    """What follows ``python``: ``-m moe_search worker ...``."""
    folder: Path
    """Of the campaign; launchers that outlive this process keep there what they have started."""
    logs: Path
    """Folder for what workers say."""
    threads: int = 1
    """CPU threads of a worker, for each of its devices."""
    devices: int = 1
    """Devices that train one proxy together."""
    grace_seconds: float = 30.0
    """From the request to stop until a worker has saved and given back its trial."""
    warn: Callable[[str], None] = field(default=lambda _: None, compare=False)
    """Told what the user should know though the work goes on."""

    @property
    def cores(self) -> int:
        """CPU cores that a worker can use."""
        return self.threads * self.devices


class Launcher(Protocol):
    """Starts workers and watches them."""

    def start(self, count: int) -> None:
        """Start ``count`` workers, or as many as are missing where some of an earlier command are still at work.

        Raises:
            InvalidInputError: they cannot be started like this.
            ResourceError: the machines or their scheduler do not answer.
        """
        ...

    def tend(self) -> int:
        """Start workers again that died, and return how many are at work; 0 once all have found nothing left to do.

        Raises:
            InvalidInputError: a worker refused the specification.
            ResourceError: a worker died again and again.
        """
        ...

    def stop(self) -> None:
        """Ask every worker to save its state, wait for the grace period, then end whoever is still there."""
        ...


@dataclass(frozen=True)
class Ended:
    """How a worker ended."""

    code: int
    """Exit code; negative: the signal that killed it."""
    words: str
    """The last line it said, and where the rest is."""

    @property
    def how(self) -> str:
        """The exit code in words."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return f"signal {signal.Signals(-self.code).name}"
        except ValueError:
            return f"signal {-self.code}"


@dataclass
class Lives:
    """How often one worker has died since it was last well.

    Args:
        logs: a folder on the disk that workers write to.
    """

    logs: Path
    restarts: int = 0
    _began: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """The worker has been started."""
        self._began = time.monotonic()

    def end(self, ended: Ended) -> None:
        """Note the end of a worker that is about to be started again; ends that somebody asked for cost nothing.

        Raises:
            InvalidInputError: it refused the specification.
            ResourceError: the disk is full, or it has died too often.
        """
        if ended.code == Code.USAGE:
            raise InvalidInputError(ended.words)
        if ended.code in {Code.INTERRUPTED, -signal.SIGTERM}:
            return
        if shutil.disk_usage(self.logs).free < LEAST_FREE_BYTES:
            raise ResourceError(f"a worker died because the disk of {self.logs} is full; free some space, then go on")
        if time.monotonic() - self._began >= LONG_LIFE_SECONDS:
            self.restarts = 0
        if self.restarts >= MAX_RESTARTS:
            raise ResourceError(f"a worker died {self.restarts + 1} times ({ended.how}): {ended.words}")
        self.restarts += 1


def spawn(
    arguments: Sequence[str], log: Path | None, environment: Mapping[str, str], *, own_session: bool = True
) -> subprocess.Popen[bytes]:
    """Start a worker process that stops when this one is gone.

    Args:
        arguments: what follows ``python``.
        log: file that is appended to; None: it says what it says where this process does.
        environment: variables, on top of those of this process.
        own_session: Ctrl-C at the terminal does not reach it, so that whoever started it can stop it in order.
    """
    command = [sys.executable, *arguments, "--parent", str(os.getpid())]
    everything = {**os.environ, **environment}
    if log is None:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command, stdin=subprocess.DEVNULL, env=everything, start_new_session=own_session
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as handle:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            env=everything,
            start_new_session=own_session,
        )


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment that keeps the libraries under PyTorch to so many threads."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def last_words(log: Path) -> str:
    """Return the last line of a log, and where the log is."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except FileNotFoundError:
        lines = []
    said = [line for line in lines if line]
    return f"{_message(said[-1]).removeprefix('error: ') if said else 'it said nothing'} (see {log})"


def _message(line: str) -> str:
    """Return what a line of a log says: the message, where it is a JSON object."""
    try:
        return str(json.loads(line)["message"])
    except (ValueError, LookupError, TypeError):
        return line


def missing(package: str, launcher: str) -> InvalidInputError:
    """Return the complaint about a launcher whose package is not installed."""
    return InvalidInputError(
        f"the launcher {launcher} needs the package {package}, which is not installed",
        where="workers.launcher",
        fix=f"pip install 'moe-search[{launcher}]'",
    )
