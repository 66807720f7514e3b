"""Mutual exclusion between processes, by locks that die with their holder.

A lock that outlives a killed worker would stop a campaign, so none is ever written down: the kernel drops a file lock,
and PostgreSQL an advisory lock, at the moment their process or connection ends.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError


class Exclusive(Protocol):
    """Named locks; not re-entrant."""

    def hold(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the lock ``name`` in a ``with`` block; its value says whether it was obtained (always, if ``wait``)."""
        ...


class FileLocks:
    """Locks of one machine: ``flock`` on small files beside ``path``.

    Args:
        path: the file that the locks guard; lock ``name`` is held on ``<path>.<name>.lock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold ``flock`` on a descriptor of our own, so that threads of one process exclude each other too."""
        descriptor = os.open(f"{self._path}.{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


class AdvisoryLocks:
    """Locks of one PostgreSQL database: advisory locks of a transaction that stays open for as long as one is held.

    The transaction reads nothing after taking its lock, so it keeps no snapshot and no row locked; and being one, it
    passes through pgbouncer's transaction mode, which locks of a session do not. The lock goes with its connection: a
    holder that dies, or is cut off for half a minute, loses it.

    Args:
        engine: of that database.
        scope: what the locks guard (the study's name), so that studies in one database do not wait for each other.
    """

    def __init__(self, engine: Engine, scope: str) -> None:
        self._engine = engine
        self._scope = scope

    def _key(self, name: str) -> int:
        digest = hashlib.blake2b(f"moe-search/{self._scope}/{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    @contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold an advisory lock on a connection of its own."""
        function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
        connection = self._engine.connect()
        try:
            yield connection.execute(text(f"SELECT {function}(:key)"), {"key": self._key(name)}).scalar() is not False
        finally:
            try:
                connection.rollback()
            except DBAPIError:  # the connection is gone, and the lock with it
                connection.invalidate()
            connection.close()
