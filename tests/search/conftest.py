"""A small problem, the world it is searched in, and a database server."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from moe_search.search.problem import Problem
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.space import SearchSpace


def make_problem(*, tops: float = 4.0, **fields: object) -> Problem:
    """A problem whose budget pays for ``tops`` runs of the space's centre at the ladder's top."""
    space = SearchSpace.model_validate(
        {
            "granularity": {"low": 1, "high": 8, "log": True},
            "activation_ratio": {"low": 0.06, "high": 0.5, "log": True},
            "n_shared_experts": {"choices": [0, 1]},
            "schedule": {"tilt": {"low": -1, "high": 1}},
            "mixture": {"domains": ["code", "prose", "web"], "floor": 0.02},
        }
    )
    ladder = Ladder(sizes=(300_000, 1_000_000, 3_000_000), tokens=(5_000_000, 10_000_000, 20_000_000))
    problem = Problem.model_validate({"space": space, "ladder": ladder, "budget_flops": 1.0} | fields)
    return problem.replace(budget_flops=tops * problem.cost(space.center(), problem.ladder.top))


@pytest.fixture(scope="session")
def problem() -> Problem:
    return make_problem()


@pytest.fixture(scope="session")
def world(problem: Problem) -> SimulatedWorld:
    return SimulatedWorld(problem=problem, seed=1)


@pytest.fixture(scope="session")
def problem_of_budget():  # a factory, because tests import nothing from each other
    return make_problem


def _free_port() -> int:
    """Return a port that nobody uses, below those that systems give to outgoing connections."""
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a database: that in MOE_SEARCH_TEST_POSTGRESQL, or on a server of our own where one is installed."""
    if url := os.environ.get("MOE_SEARCH_TEST_POSTGRESQL"):
        yield url
        return
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("no PostgreSQL server here (initdb and postgres are not on the path)")
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL refuses to run as root, and runuser is not installed")
        as_user = ["runuser", "-u", "postgres", "--"]
    folder = Path(tempfile.mkdtemp(prefix="moe-search-postgresql-"))
    folder.chmod(0o777)
    port = _free_port()
    data = folder / "data"
    try:
        made = subprocess.run(
            [*as_user, "initdb", "-D", str(data), "-U", "postgres", "-A", "trust"], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip(f"initdb failed: {made.stderr.decode()[-200:]}")
        server = subprocess.Popen(
            [*as_user, "postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(1200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert server.poll() is None, "PostgreSQL does not start"
                time.sleep(0.1)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
