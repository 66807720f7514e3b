"""A stand-in for ``python -m moe_search worker``, so that launchers are tested without training."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_search.search.launching import Crew

WORKER = '''\
"""Does what the file says: a line of Python that may use what is below."""
import os, pathlib, signal, sys, time

here = pathlib.Path(sys.argv[1])
asked = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: asked.append(number))

def wait_until_asked():
    (here / f"up-{os.getpid()}").touch()
    while not asked:
        time.sleep(0.01)
    (here / f"asked-{os.getpid()}-{signal.Signals(asked[0]).name}").touch()
    sys.exit(130)

exec((here / "do.py").read_text())
'''


@pytest.fixture
def do(tmp_path: Path) -> Callable[[str], None]:
    """Say what workers do from now on."""

    def write(code: str) -> None:
        partial = tmp_path / "do.py.partial"
        partial.write_text(code)
        partial.replace(tmp_path / "do.py")

    write("sys.exit(0)")
    return write


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    """Workers that do what ``do`` says; a process of its own may start them too."""
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    (tmp_path / "logs").mkdir()
    return Crew(
        name="tiny",
        arguments=(str(program), str(tmp_path)),
        folder=tmp_path,
        logs=tmp_path / "logs",
        threads=1,
        grace_seconds=5.0,
    )
