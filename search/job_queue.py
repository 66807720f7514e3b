"""Where submitted jobs wait and run: a SLURM cluster, or this machine with submitit's own job processes."""

import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

SECONDS_PER_QUESTION = 60.0
"""After which a scheduler does not answer."""
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""States of a SLURM job that it does not leave."""
TAKEN_AWAY = {"BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"}
"""Those that say nothing about the job itself."""


class JobQueue(Protocol):
    """A place for jobs."""

    name: str

    def states(self, jobs: Collection[str]) -> Mapping[str, str] | None:
        """Return SLURM's word for the state of each job that is known; None where nobody answers."""
        ...

    def ask(self, job: str) -> None:
        """Send SIGTERM to what runs in a job."""
        ...

    def cancel(self, job: str) -> None:
        """End a job, or take it out of the queue."""
        ...

    def submitting(self) -> AbstractContextManager[None]:
        """Hold while jobs are submitted."""
        ...


def is_at_work(state: str | None) -> bool:
    """Say whether a job in a state waits or runs."""
    return state is not None and state not in ENDED


class SlurmQueue:
    """The cluster that this machine belongs to.

    It is asked by ``squeue``, which needs no accounting database; submitit asks ``sacct``, which does.
    """

    name = "SLURM"

    def states(self, jobs: Collection[str]) -> Mapping[str, str] | None:
        """Ask for all jobs of this user: a question for ids fails when one of them is long gone."""
        done = _tell("squeue", "--user", str(os.getuid()), "--noheader", "--array", "--states=all", "--format=%i %T")
        if done is None or done.returncode:
            return None
        known = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
        return {job: known[job] for job in jobs if job in known}

    def ask(self, job: str) -> None:
        """Signal the job's steps; their processes pass it on."""
        _tell("scancel", "--signal=TERM", job)

    def cancel(self, job: str) -> None:
        """Take the job out of the queue, or end it as its cluster does."""
        _tell("scancel", job)

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Nothing is to be held."""
        yield


class ThisMachine:
    """Processes that submitit starts here; the id of a job is the number of the process that controls it."""

    name = "submitit"

    def states(self, jobs: Collection[str]) -> Mapping[str, str] | None:
        """Return RUNNING for those whose controller lives."""
        return {job: "RUNNING" for job in jobs if _command(job).find("submitit.local") >= 0}

    def ask(self, job: str) -> None:
        """Ask the controller, which passes it on."""
        with suppress(ProcessLookupError):
            os.kill(int(job), signal.SIGTERM)

    def cancel(self, job: str) -> None:
        """Kill the controller and what it has started; a worker whose parent is gone stops by itself."""
        below = [
            path.parent.name
            for path in Path("/proc").glob("[0-9]*/stat")
            if _read(path).rpartition(")")[2].split()[1:2] == [job]
        ]
        for pid in (job, *below):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Have the processes ignore Ctrl-C from birth: at a terminal it reaches them too, before they can be asked."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _tell(*command: str) -> "subprocess.CompletedProcess[str] | None":
    """Return what a command of SLURM's answers; None if it does not."""
    try:
        return subprocess.run(  # noqa: S603 - arguments of our own
            command, capture_output=True, text=True, timeout=SECONDS_PER_QUESTION, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _command(pid: str) -> str:
    return _read(Path(f"/proc/{pid}/cmdline"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
