"""What all tests share: one thread a test process, so that two workers keep two cores busy, and a database server."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

import pytest
from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("without_deadline")

START_SECONDS = 120
"""After which a server does not start. Nothing here depends on being faster."""


class PostgreSQL:
    """A server of our own, on a port and in a folder of its own, that can be stopped and started again.

    Args:
        programs: folder of ``initdb`` and ``postgres``.
        folder: for its files.
        user: whom it runs as; None: this process's user (PostgreSQL refuses to run as root).
    """

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder = programs, folder
        self._as_user = {} if user is None else {"user": user, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync"],
            cwd=folder,
            capture_output=True,
            check=True,
            **self._as_user,
        )

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL by which the server is reached through another port."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Return once connections are accepted, after a crash's recovery too."""
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder)]
        with (self._folder / "server.log").open("ab") as said:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                cwd=self._folder,
                stdout=said,
                stderr=said,
                **self._as_user,
            )
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server.

        Args:
            how: SIGINT ends its sessions and writes everything down; SIGQUIT drops all at once, as in a crash.
        """
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None


def _free_port() -> int:
    """Return a port that nobody uses, below those that systems give to outgoing connections."""
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


def _programs() -> Path | None:
    """Return where PostgreSQL's server programs are: on the path, or where Debian keeps them off it."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A server of our own, where one is installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here (initdb is not on the path)")
    folder = Path(tempfile.mkdtemp(prefix="moe-search-postgresql-"))  # a short path, for the socket in it
    try:
        server = PostgreSQL(programs, folder, user="postgres" if os.geteuid() == 0 else None)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> str:
    """The URL of a database: that in MOE_SEARCH_TEST_POSTGRESQL, or on a server of our own where one is installed."""
    url = os.environ.get("MOE_SEARCH_TEST_POSTGRESQL")
    return url or str(request.getfixturevalue("postgresql_server").url)
