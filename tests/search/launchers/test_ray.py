"""Workers as actors: on a stand-in for Ray always, and on Ray itself where it is installed.

``tests/chaos/test_launchers.py`` has a cluster of two nodes, one of which dies.
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_search.search.launchers.ray import Hand, RayOptions, RayWorkers
from moe_search.search.launching import Crew
from moe_search.spaces.errors import InvalidInputError, ResourceError

GIVE_UP_SECONDS = 60
RAY_IS_HERE = importlib.util.find_spec("ray") is not None


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(crew: Crew) -> list[int]:
    return [int(path.name.removeprefix("up-")) for path in crew.folder.glob("up-*")]


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class Actor:
    """An actor of the stand-in: the real class, called on threads, or waiting for room."""

    def __init__(self, ray: "StandIn", hand: Hand, demand: Mapping[str, float]) -> None:
        self.ray, self.hand, self.demand = ray, hand, demand
        self.node: str | None = None
        self.calls: list[tuple[Callable[[], object], futures.Future[object]]] = []
        self.threads = futures.ThreadPoolExecutor(4)
        self.pending: list[futures.Future[object]] = []

    def __getattr__(self, name: str) -> SimpleNamespace:
        function = (lambda: self.node) if name == "begun" else getattr(self.hand, name)
        return SimpleNamespace(remote=lambda: self.call(function))

    def call(self, function: Callable[[], object]) -> "futures.Future[object]":
        future: futures.Future[object] = futures.Future()
        self.pending.append(future)
        self.calls.append((function, future))
        self.ray.place()
        return future

    def go(self) -> None:
        for function, future in self.calls:
            self.threads.submit(self.settle, function, future)
        self.calls = []

    @staticmethod
    def settle(function: Callable[[], object], future: "futures.Future[object]") -> None:
        result = function()
        if not future.done():
            future.set_result(result)

    def die(self) -> None:
        self.node = "nowhere"
        if self.hand._process is not None and self.hand._process.poll() is None:
            self.hand._process.kill()
        for future in self.pending:
            if not future.done():
                future.set_exception(RayActorError("The actor died unexpectedly."))


class StandIn:
    """As much of Ray as the launcher uses, with nodes of one CPU and two GPUs."""

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def __init__(self, nodes: Mapping[str, Mapping[str, float]]) -> None:
        self.all, self.dead, self.actors, self.settings = dict(nodes), set[str](), list[Actor](), list[Any]()
        self.said: dict[str, object] = {}

    def init(self, **said: object) -> None:
        if said["address"] == "nobody:1":
            raise ConnectionError("Failed to connect to Ray cluster at nobody:1.\nSee the docs.")
        self.said = said

    def nodes(self) -> list[dict[str, object]]:
        return [
            {"NodeID": name, "Alive": name not in self.dead, "Resources": resources}
            for name, resources in self.all.items()
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": sum(node.get("GPU", 0) for node in self.all.values())}

    def remote(self, kind: type[Hand]) -> SimpleNamespace:
        def options(**settings: Any) -> SimpleNamespace:
            self.settings.append(settings)

            def make(*arguments: Any) -> Actor:
                demand = {"CPU": settings["num_cpus"], "GPU": settings["num_gpus"], **settings["resources"]}
                self.actors.append(Actor(self, kind(*arguments), demand))
                return self.actors[-1]

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def place(self) -> None:
        for actor in self.actors:
            for name, has in self.all.items() if actor.node is None else ():
                used = [other.demand for other in self.actors if other.node == name]
                if name not in self.dead and all(
                    sum(demand.get(what, 0) for demand in used) + amount <= has.get(what, 0)
                    for what, amount in actor.demand.items()
                ):
                    actor.node = name
                    break
            if actor.node is not None:
                actor.go()

    def wait(
        self, references: list["futures.Future[object]"], *, num_returns: int = 1, timeout: float
    ) -> tuple[list[object], list[object]]:
        how = futures.FIRST_COMPLETED if num_returns == 1 else futures.ALL_COMPLETED
        done = futures.wait(references, timeout, how).done
        return list(done), [reference for reference in references if reference not in done]

    def get(self, reference: "futures.Future[object]", timeout: float | None = None) -> object:
        return reference.result(timeout)

    def kill(self, actor: Actor) -> None:
        actor.die()
        self.place()

    def lose(self, node: str) -> None:
        """A node dies, and everything on it."""
        self.dead.add(node)
        for actor in self.actors:
            if actor.node == node:
                actor.die()

    def shutdown(self) -> None:
        for actor in self.actors:
            actor.die()
            actor.threads.shutdown()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn({"a": {"CPU": 1, "GPU": 2}, "b": {"CPU": 1, "GPU": 2}})
    monkeypatch.setitem(sys.modules, "ray", stand_in)  # type: ignore[arg-type]
    return stand_in


def test_a_worker_whose_node_dies_is_started_elsewhere_at_no_cost(
    crew: Crew, do: Callable[[str], None], ray: StandIn
) -> None:
    do("wait_until_asked()")
    said: list[str] = []
    workers = RayWorkers(Crew(**{**vars(crew), "warn": said.append}), RayOptions(address="head:6379", gpus=0))
    workers.start(2)
    assert not said
    until(lambda: len(pids(crew)) == 2)
    ray.lose("a")
    assert workers.tend() == 2
    ray.dead.clear()
    ray.place()
    until(lambda: len(pids(crew)) == 3)
    for _ in range(5):  # as often as it takes
        before = len(pids(crew))
        ray.lose("b")
        assert workers.tend() == 2
        ray.dead.clear()
        ray.place()
        until(lambda before=before: len(pids(crew)) > before)
    workers.stop()
    assert len(list(crew.folder.glob("asked-*-SIGTERM"))) == 2
    assert ray.said["address"] == "head:6379"


def test_who_finds_no_room_waits_and_goes_when_nothing_is_left(
    crew: Crew, do: Callable[[str], None], ray: StandIn
) -> None:
    do("while not (here / 'enough').exists(): time.sleep(0.01)\n(here / f'up-{os.getpid()}').touch()")
    said: list[str] = []
    workers = RayWorkers(Crew(**{**vars(crew), "warn": said.append}), RayOptions())
    workers.start(3)
    assert said == ["the Ray cluster has room for 2 of 3 workers; the others wait for it"]
    assert workers.tend() == 3
    ray.place = lambda: None  # type: ignore[method-assign] - nor does anybody make room
    (crew.folder / "enough").touch()
    until(lambda: workers.tend() == 0)
    assert len(pids(crew)) == 2
    workers.stop()


def test_a_worker_that_dies_again_and_again_is_no_accident(crew: Crew, do: Callable[[str], None], ray: StandIn) -> None:
    do("print('out of luck', flush=True); sys.exit(7)")
    workers = RayWorkers(crew, RayOptions())
    workers.start(1)
    with pytest.raises(ResourceError, match=r"died 4 times \(exit code 7\): out of luck \(see .*worker-1.log\)"):
        until(lambda: workers.tend() == 0)
    workers.stop()
    do("print('error: no such field'); sys.exit(2)")
    workers.start(1)
    with pytest.raises(InvalidInputError, match=r"^no such field \(see "):
        until(lambda: workers.tend() == 0)
    workers.stop()


@pytest.mark.parametrize(
    ("options", "crew_has", "takes"),
    [
        ({}, {}, {"num_cpus": 1, "num_gpus": 1, "resources": {}}),  # the cluster has some
        ({"gpus": 0.5}, {"threads": 3}, {"num_cpus": 3, "num_gpus": 0.5}),
        ({"cpus": 2, "gpus": 0, "memory_gb": 3, "resources": {"fast": 1}}, {}, {"num_cpus": 2, "memory": 3e9}),
    ],
)
def test_what_a_worker_takes(
    crew: Crew, ray: StandIn, options: dict[str, Any], crew_has: dict[str, Any], takes: dict[str, Any]
) -> None:
    workers = RayWorkers(Crew(**{**vars(crew), **crew_has}), RayOptions(**options))
    workers.start(1)
    assert takes.items() <= ray.settings[0].items()
    workers.stop()


def test_what_cannot_be_is_one_sentence(crew: Crew, ray: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"the Ray cluster at nobody:1 cannot be used: Failed to connect .*1\.$"):
        RayWorkers(crew, RayOptions(address="nobody:1")).start(1)
    with pytest.raises(InvalidInputError, match=r"workers.ray.gpus: a worker has 3 GPUs but a proxy trains on 2"):
        RayWorkers(Crew(**{**vars(crew), "devices": 2}), RayOptions(gpus=3))
    with pytest.raises(InvalidInputError, match=r"allowed: 0 to 1"):
        RayWorkers(crew, RayOptions(gpus=2))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'moe-search\[ray\]'"):
        RayWorkers(crew, RayOptions())


def test_an_actor_that_is_asked_before_it_begins_does_not(crew: Crew) -> None:
    hand = Hand(crew.arguments, crew.logs / "worker.log", {})
    hand.stop()
    assert hand.work()[0] == 130


@pytest.mark.slow
@pytest.mark.skipif(not RAY_IS_HERE, reason="the extra ray is not installed")
def test_on_ray_itself(crew: Crew, do: Callable[[str], None]) -> None:
    do("wait_until_asked()")
    before = signal.getsignal(signal.SIGTERM)
    workers = RayWorkers(crew, RayOptions(cpus=0.1))
    workers.start(2)
    assert signal.getsignal(signal.SIGTERM) is before, "SIGTERM is still a request to stop"
    try:
        until(lambda: len(pids(crew)) == 2)
        os.kill(pids(crew)[0], signal.SIGKILL)
        until(lambda: workers.tend() == 2 and len(pids(crew)) == 3)
    finally:
        workers.stop()
    assert len(list(crew.folder.glob("asked-*-SIGTERM"))) == 2
    assert not [pid for pid in pids(crew) if Path(f"/proc/{pid}").exists()], "nothing is left running"
