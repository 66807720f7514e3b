"""The Optuna storages that a ledger can live in, each with the trial table and the locks that fit it.

- A path: Optuna's journal file, for any number of processes on one machine.
- ``sqlite:///file``: for one machine too; the journal is faster and safer.
- ``postgresql+psycopg://user:password@host/database``: for any number of machines.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from moe_search.search.exclusive import AdvisoryLocks, Exclusive, FileLocks
from moe_search.search.optuna_table import OptunaTable
from moe_search.search.postgresql_schema import create_schema, has_schema
from moe_search.search.postgresql_table import PostgreSQLTable
from moe_search.search.redacting import redacted
from moe_search.search.table import Table
from moe_search.spaces.errors import InvalidInputError, ResourceError

ALLOWED = "a path to a journal file, sqlite:///FILE, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
SQLITE_WAIT_SECONDS = 60
CONNECT = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "connect_timeout": 10,
}
"""libpq: a connection over a cut network, and with it the locks it holds, ends after about half a minute."""
NOT_PREPARED = {"prepare_threshold": None}
"""psycopg: statements are not prepared on the server, where pgbouncer would lose them."""
KEPT_CONNECTIONS, MORE_CONNECTIONS = 1, 4
"""A worker keeps one connection; proposing, and a heartbeat at the same moment, open further ones and close them."""


class StorageAwayError(ResourceError):
    """The storage does not answer now: a database that restarts, a network that is cut. Trying again may help."""


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


class Storage(NamedTuple):
    """An open storage."""

    optuna: BaseStorage
    locks: Exclusive
    table: Callable[[int, float], Table]
    """Opens the trial table of a study, given its number and the length of leases."""


def open_storage(storage: str | Path, *, scope: str) -> Storage:
    """Open or create a storage.

    Args:
        storage: path or URL.
        scope: the study's name, which a database's locks carry.

    Raises:
        InvalidInputError: another kind of URL, or its driver is not installed.
        StorageAwayError: it cannot be reached.
        ResourceError: it cannot be written.
    """
    if "://" not in str(storage):
        return _open_journal(Path(storage))
    try:
        url = sqlalchemy.make_url(str(storage))
    except sqlalchemy.exc.ArgumentError as error:
        raise InvalidInputError("the storage URL cannot be read", where="storage", allowed=ALLOWED) from error
    name = redacted(str(storage))
    try:
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            return _open_sqlite(url)
        if url.get_backend_name() == "postgresql":
            return _open_postgresql(url if "+" in url.drivername else url.set(drivername="postgresql+psycopg"), scope)
    except ImportError as error:
        raise InvalidInputError(
            f"the driver for {name} is not installed",
            where="storage",
            allowed=ALLOWED,
            fix="pip install 'moe-search[postgresql]'",
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        away = isinstance(cause, sqlalchemy.exc.DBAPIError) and is_away(cause)
        raise (StorageAwayError if away else ResourceError)(f"storage {name}: {_first_line(error)}") from error
    raise InvalidInputError(f"storage {name} is not supported", where="storage", allowed=ALLOWED)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy raise when the disk is full or the database away into one sentence."""
    try:
        yield
    except StorageInternalError as error:  # Optuna's name for whatever SQLAlchemy raised
        raise _trouble(error.__cause__ or error) from error
    except sqlalchemy.exc.DBAPIError as error:
        raise _trouble(error) from error
    except sqlalchemy.exc.TimeoutError as error:  # all of this process's connections wait for an answer
        raise StorageAwayError(f"the ledger's storage does not answer: {_first_line(error)}") from error
    except OSError as error:
        raise ResourceError(f"the ledger's storage: {error.strerror or error}") from error


def is_away(error: sqlalchemy.exc.DBAPIError) -> bool:
    """Say whether trying again may help: no answer, a restart, too many connections, a standby, a locked file."""
    kinds = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.InternalError)
    return error.connection_invalidated or isinstance(error, kinds)


def _trouble(error: BaseException) -> ResourceError:
    if isinstance(error, sqlalchemy.exc.DBAPIError) and not is_away(error):
        return ResourceError(f"the ledger's storage refuses: {_first_line(error)}")
    return StorageAwayError(f"the ledger's storage does not answer: {_first_line(error)}")


def _open_sqlite(url: sqlalchemy.URL) -> Storage:
    path = Path(url.database or "").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    locks = FileLocks(path)
    with locks.hold("schema"):
        connect = {"connect_args": {"timeout": SQLITE_WAIT_SECONDS}}
        return _on_optuna(get_storage(RDBStorage(str(url), engine_kwargs=connect)), locks)


def _on_optuna(storage: BaseStorage, locks: Exclusive) -> Storage:
    return Storage(storage, locks, lambda study_id, _seconds: OptunaTable(storage, locks, study_id))


def _open_postgresql(url: sqlalchemy.URL, scope: str) -> Storage:
    connect = {name: value for name, value in CONNECT.items() if name not in url.query}
    options = {"pool_size": KEPT_CONNECTIONS, "max_overflow": MORE_CONNECTIONS, "connect_args": connect | NOT_PREPARED}
    engine = sqlalchemy.create_engine(url, **options)
    text = url.render_as_string(hide_password=False)
    if not has_schema(engine):
        # Optuna's table creation races (optuna#1092); whoever holds the lock creates, the rest find it done.
        with AdvisoryLocks(engine, "").hold("schema"):
            RDBStorage(text, engine_kwargs={"poolclass": sqlalchemy.NullPool, "connect_args": connect | NOT_PREPARED})
            create_schema(engine)
    # Optuna's side is used when a study is opened or shown; between uses it keeps no connection.
    optuna = RDBStorage(
        text,
        engine_kwargs={"poolclass": sqlalchemy.NullPool, "connect_args": connect | NOT_PREPARED},
        skip_table_creation=True,
    )
    locks = AdvisoryLocks(engine, scope)
    return Storage(
        get_storage(optuna), locks, lambda study_id, seconds: PostgreSQLTable(engine, locks, study_id, seconds)
    )


def _open_journal(path: Path) -> Storage:
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
    return _on_optuna(storage, FileLocks(path))


def _first_line(error: BaseException) -> str:
    said = str(error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig else error).strip()
    return said.splitlines()[0] if said else type(error).__name__
