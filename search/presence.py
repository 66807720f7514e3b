"""Who works on a campaign: what workers say of themselves, and what their leases say.

A working worker shows itself by the lease that it renews anyway. So it leaves a note of its own only when it starts,
when it ends and, rarely, while it has nothing to do: presence costs a few statements in a worker's life.
"""

import time
from collections.abc import Iterable
from typing import Literal

from moe_search.search.lease import Lease, is_dead
from moe_search.spaces.frozen import Frozen

NOTE_SECONDS = 120.0
"""How often an idle worker says that it is there."""
SILENCES = 3
"""Notes left out after which an idle worker is counted as lost."""


class Note(Frozen):
    """What a worker last said of itself."""

    owner: str
    state: Literal["idle", "ended"]
    seen: float
    """Seconds since the epoch, on the reader's clock."""
    host: str = ""
    pid: int = 0
    process_started: str = ""


class Presence(Frozen):
    """One worker as it stands."""

    owner: str
    state: Literal["working", "idle", "ended", "lost"]
    """``lost``: killed, or silent for too long; its trial is free to be resumed."""
    trial: int | None = None
    """What it works on, or was lost at."""
    seen: float
    """Last sign of life, in seconds since the epoch, on the reader's clock."""
    host: str = ""
    """Machine, boot and process namespace."""
    pid: int = 0


def presences(
    notes: Iterable[Note], leases: Iterable[tuple[int, Lease]], *, lease_seconds: float, now: float | None = None
) -> list[Presence]:
    """Return every worker that has shown itself, by name.

    Args:
        notes: the latest of each worker.
        leases: trial number and lease of the trials that are running.
        lease_seconds: how long before its end a lease was renewed.
        now: seconds since the epoch; None: the present.
    """
    now = time.time() if now is None else now
    found = {note.owner: _by_note(note, now) for note in notes}
    for trial, lease in leases:
        if lease.released:
            continue
        said = found.get(lease.owner)
        held = lease.is_held(now)
        seen = min(now, lease.expires_at - lease_seconds)
        if not held and said is not None and (said.state == "ended" or said.seen > seen):
            continue  # it has shown itself since
        found[lease.owner] = Presence(
            owner=lease.owner,
            state="working" if held else "lost",
            trial=trial,
            seen=seen if said is None else max(seen, said.seen),
            host=lease.host,
            pid=lease.pid,
        )
    return sorted(found.values(), key=lambda presence: presence.owner)


def _by_note(note: Note, now: float) -> Presence:
    silent = now - note.seen > SILENCES * NOTE_SECONDS or is_dead(note.host, note.pid, note.process_started)
    state = "lost" if note.state == "idle" and silent else note.state
    return Presence(owner=note.owner, state=state, seen=note.seen, host=note.host, pid=note.pid)
