"""Leases: who works on a trial, and until when nobody else may.

Optuna's heartbeats run only inside ``Study.optimize`` and only on an RDB storage: a trial asked with ``ask``, or
through the journal or the gRPC proxy, stays RUNNING for ever when its worker dies. So liveness is ours: a lease, kept
in a user attribute of the trial (:mod:`~moe_search.search.optuna_table`) or in a table of ours
(:mod:`~moe_search.search.postgresql_table`). A lease ends when it expires, or at once when its process is known to be
dead. Each new holder of a trial gets the next *fencing token*, by which a result that comes late is recognised.
"""

import os
import socket
import time
from functools import cache
from pathlib import Path

from moe_search.spaces.frozen import Frozen


class Lease(Frozen):
    """The right to work on one trial."""

    owner: str
    token: int
    """1 for the first holder of the trial, one more for each later one."""
    expires_at: float
    """Seconds since the epoch, on this machine's clock: a database's lease is measured by the database's clock and
    translated when it is read."""
    losses: int = 0
    """Earlier holders that were lost: killed, or silent for too long."""
    preemptions: int = 0
    """Earlier holders that gave the trial back on purpose."""
    released: bool = False
    """Given back on purpose: the trial may be resumed at once."""
    host: str = ""
    """Machine and process namespace that ``pid`` belongs to."""
    pid: int = 0
    process_started: str = ""
    """When the process started, in the kernel's ticks, so that a reused process number is not taken for the holder."""

    def is_held(self, now: float | None = None) -> bool:
        """Say whether somebody may still be working: not released, not expired, and not a dead process of this host."""
        if self.released or (time.time() if now is None else now) >= self.expires_at:
            return False
        return not is_dead(self.host, self.pid, self.process_started)


def new_lease(owner: str, token: int, seconds: float, *, losses: int = 0, preemptions: int = 0) -> Lease:
    """Return a lease of this process for ``seconds`` from now."""
    host, pid, process_started = this_process()
    return Lease(
        owner=owner,
        token=token,
        expires_at=time.time() + seconds,
        losses=losses,
        preemptions=preemptions,
        host=host,
        pid=pid,
        process_started=process_started,
    )


def this_process() -> tuple[str, int, str]:
    """Return what identifies this process: its host, its number and its start."""
    pid = os.getpid()
    return this_host(), pid, _started(pid)


def is_dead(host: str, pid: int, process_started: str) -> bool:
    """Say whether a process is known to be dead; of those on other hosts nothing is known."""
    return host == this_host() and _started(pid) != process_started


@cache
def this_host() -> str:
    """Return a name for the set of process numbers that this process sees: machine, boot and process namespace."""
    namespace, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    parts = [socket.gethostname()]
    if boot.exists() and namespace.is_symlink():
        parts += [boot.read_text().strip(), str(namespace.readlink())]
    return "/".join(parts)


def _started(pid: int) -> str:
    """Return the start of process ``pid``: its ticks on Linux, "alive" where there is no /proc, "" if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    else:
        return "" if fields[0] in "ZX" else fields[19]  # a zombie holds nothing; field 22 of proc(5) is the start time
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:  # it lives, and is somebody else's
        return "alive"
    return "alive"
