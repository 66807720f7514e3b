"""A look at a campaign's storage that changes nothing in it: is it there, which version, how far, what time is it."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import sqlalchemy

from moe_search.search.redacting import redacted
from moe_search.search.storage import ALLOWED, CONNECT
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.frozen import Frozen

QUESTIONS = 5


class Probe(Frozen):
    """What a storage answered."""

    storage: str
    """Path or URL, without secrets."""
    version: str
    """Of the database; of a file, what it is."""
    latency_seconds: float
    """Median of a few round trips; for a file, of writing a block down to the disk."""
    clock_seconds: float
    """How far its clock is ahead of this machine's."""


def probe(storage: str | Path) -> Probe:
    """Ask a storage.

    Args:
        storage: path of a journal, or a URL.

    Raises:
        InvalidInputError: another kind of URL, or its driver is not installed.
        ResourceError: it does not answer, or cannot be written.
    """
    name = redacted(str(storage))
    if "://" not in str(storage):
        return _file(name, Path(storage), "journal file")
    try:
        url = sqlalchemy.make_url(str(storage))
        if url.get_backend_name() == "sqlite":
            return _file(name, Path(url.database or ""), "SQLite")
        if url.get_backend_name() == "postgresql":
            return _postgresql(name, url if "+" in url.drivername else url.set(drivername="postgresql+psycopg"))
    except ImportError as error:
        raise InvalidInputError(
            f"the driver for {name} is not installed", where="storage", fix="pip install 'moe-search[postgresql]'"
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise ResourceError(f"the storage {name} does not answer: {redacted(said)}") from error
    raise InvalidInputError(f"storage {name} is not supported", where="storage", allowed=ALLOWED)


def _postgresql(name: str, url: sqlalchemy.URL) -> Probe:
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.NullPool, connect_args={**CONNECT, "connect_timeout": 5}
    )
    with engine.connect() as connection:
        version = str(connection.execute(sqlalchemy.text("SHOW server_version")).scalar_one())
        moment = sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")
        took, ahead = [], []
        for _ in range(QUESTIONS):
            asked = time.time()
            there = float(connection.execute(moment).scalar_one())
            answered = time.time()
            took.append(answered - asked)
            ahead.append(there - (asked + answered) / 2)
    return Probe(
        storage=name,
        version=f"PostgreSQL {version}",
        latency_seconds=statistics.median(took),
        clock_seconds=statistics.median(ahead),
    )


def _file(name: str, path: Path, kind: str) -> Probe:
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    took, ahead = [], []
    try:
        for _ in range(QUESTIONS):
            asked = time.time()
            with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
                file.write(b"moe-search doctor")
                os.fsync(file.fileno())
                answered = time.time()
                ahead.append(os.fstat(file.fileno()).st_mtime - (asked + answered) / 2)
            took.append(answered - asked)
    except OSError as error:
        raise ResourceError(f"the storage {name} cannot be written: {error.strerror or error}") from error
    return Probe(
        storage=name, version=kind, latency_seconds=statistics.median(took), clock_seconds=statistics.median(ahead)
    )
