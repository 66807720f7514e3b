"""The Optuna storages that a ledger can live in, each with locks that fit it.

- A path: Optuna's journal file, for any number of processes on one machine.
- ``sqlite:///file``: for one machine too; the journal is faster and safer.
- ``postgresql+psycopg://user:password@host/database``: for any number of machines.
"""

import fcntl
import os
from pathlib import Path

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from moe_search.search.exclusive import AdvisoryLocks, Exclusive, FileLocks
from moe_search.spaces.errors import InvalidInputError, ResourceError

ALLOWED = "a path to a journal file, sqlite:///FILE, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
SQLITE_WAIT_SECONDS = 60
KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""libpq: a connection over a cut network, and with it the locks it holds, ends after about half a minute."""


class JournalLock(JournalFileOpenLock):
    """A lock on the journal's appends that dies with its process, and that mends what a killed writer left.

    Optuna's own journal locks are files that outlive a killed process for half a minute, and a line that was cut short
    would be glued to the next one and make the journal unreadable. Readers skip a last line without an end, so the next
    writer may cut it off.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock, then drop a torn last line."""
        descriptor = os.open(f"{self._path}.append.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor  # appends of one process are serialised by JournalStorage
        _drop_torn_line(self._path)
        return True

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._descriptor)


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(position - 65536, 0)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)


def open_storage(storage: str | Path, *, scope: str) -> tuple[BaseStorage, Exclusive]:
    """Open or create a storage.

    Args:
        storage: path or URL.
        scope: the study's name, which a database's locks carry.

    Returns:
        The storage and the locks to use with it.

    Raises:
        InvalidInputError: another kind of URL, or its driver is not installed.
        ResourceError: it cannot be written or reached.
    """
    if "://" not in str(storage):
        return _open_journal(Path(storage))
    try:
        url = sqlalchemy.make_url(str(storage))
    except sqlalchemy.exc.ArgumentError as error:
        raise InvalidInputError("the storage URL cannot be read", where="storage", allowed=ALLOWED) from error
    shown = url.render_as_string(hide_password=True)
    try:
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            path = Path(url.database or "").absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            locks: Exclusive = FileLocks(path)
            with locks.hold("schema"):
                connect = {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}
                return get_storage(RDBStorage(str(storage), engine_kwargs=connect)), locks
        if url.get_backend_name() == "postgresql":
            rdb_url = url if "+" in url.drivername else url.set(drivername="postgresql+psycopg")
            options = {"pool_pre_ping": True, "connect_args": KEEPALIVE}
            engine = sqlalchemy.create_engine(rdb_url, poolclass=sqlalchemy.NullPool, connect_args=KEEPALIVE)
            locks = AdvisoryLocks(engine, scope)
            # Optuna's table creation races (optuna#1092); whoever holds the lock creates, the rest find it done.
            with AdvisoryLocks(engine, "").hold("schema"):
                text = rdb_url.render_as_string(hide_password=False)
                return get_storage(RDBStorage(text, engine_kwargs=options)), locks
    except ImportError as error:
        raise InvalidInputError(
            f"the driver for {shown} is not installed",
            where="storage",
            allowed=ALLOWED,
            fix="pip install 'moe-search[postgresql]'",
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise ResourceError(f"storage {shown}: {_first_line(error)}") from error
    raise InvalidInputError(f"storage {shown} is not supported", where="storage", allowed=ALLOWED)


def _open_journal(path: Path) -> tuple[BaseStorage, Exclusive]:
    path = path.absolute()
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder", where="storage", allowed=ALLOWED, fix=str(path / "journal.log"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    except OSError as error:
        raise ResourceError(f"storage {path}: {error.strerror or error}") from error
    except ValueError as error:  # json.JSONDecodeError and Optuna's "Invalid log format" are both
        raise InvalidInputError(
            f"{path} is not an Optuna journal ({_first_line(error)})", where="storage", allowed=ALLOWED
        ) from error
    return storage, FileLocks(path)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
