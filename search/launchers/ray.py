"""Workers as actors of a Ray cluster: an existing one, or one of this machine.

An actor holds the resources of one worker on one node and runs the worker as a process of its own below it. When the
actor, its node or the worker dies, another actor is started wherever there is room, and the trial resumes there from
its checkpoint once its lease is known to be lost. A crew whose workers have several GPUs each gets a placement group on
one node for every worker; a proxy trains on one GPU so far, so that no campaign asks for that yet.

Actors belong to ``run``: they end with it, and their workers stop because their parent is gone.
"""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from moe_search.search.launching import (
    MARGIN_SECONDS,
    Code,
    Crew,
    Ended,
    Lives,
    last_words,
    missing,
    spawn,
    thread_variables,
)
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.frozen import Frozen

HANDED_ON = ("MOE_SEARCH_CACHE", "MOE_SEARCH_LOG")
"""Environment variables that workers on other machines get from ``run``; secrets are not among them."""
CALLS_AT_ONCE = 4
"""To one actor: it works, and is asked where it is and to stop."""


class RayOptions(Frozen):
    """Which cluster, and what each worker takes of it."""

    address: str | None = None
    """Of an existing cluster, or auto; None: that in RAY_ADDRESS, else a cluster of this machine, for this command."""
    cpus: float | None = Field(default=None, gt=0)
    """Logical CPUs; None: what the worker's threads use."""
    gpus: float | None = Field(default=None, ge=0)
    """None: what a proxy trains on, where the cluster has any, else 0. A part of one lets small proxies share it."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory, for placing workers; Ray does not hold them to it."""
    resources: Mapping[str, float] = {}
    """Of the cluster's own, such as {"node_type_a": 1}."""


class Hand:
    """The actor: one worker process on one node.

    Args:
        arguments: what follows ``python``.
        log: for what the worker says.
        environment: variables of the worker.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._settings = tuple(arguments), log, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._asked = False

    def begun(self) -> str:
        """Return the id of the node on which the actor has found room."""
        import ray  # noqa: PLC0415

        return str(ray.get_runtime_context().get_node_id())

    def work(self) -> tuple[int, str]:
        """Run the worker to its end; return its exit code and its last words."""
        arguments, log, environment = self._settings
        with self._lock:
            if self._asked:
                return int(Code.INTERRUPTED), "it was asked to stop before it began"
            self._process = spawn(arguments, log, environment)
        return self._process.wait(), last_words(log)

    def stop(self) -> None:
        """Have the worker save and give back its trial."""
        with self._lock:
            if self._process is not None and not self._asked:
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
            self._asked = True


@dataclass
class _Worker:
    log: Path
    lives: Lives
    group: Any
    """The placement group; None: the actor asks for its resources itself."""
    actor: Any = None
    ending: Any = None
    """What ``work`` will return."""
    begun: Any = None
    done: bool = False


class RayWorkers:
    """Workers as actors.

    Args:
        crew: whom to start.
        options: on what.

    Raises:
        InvalidInputError: Ray is not installed, or a worker would have another number of GPUs than its proxies need.
    """

    def __init__(self, crew: Crew, options: RayOptions) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # noqa: PLC0415 - only those who use it have it
        except ImportError:
            raise missing("ray", "ray") from None
        shares_one = crew.devices == 1 and options.gpus is not None and options.gpus <= 1
        if options.gpus not in {None, 0, crew.devices} and not shares_one:
            raise InvalidInputError(
                f"a worker has {options.gpus:g} GPUs but a proxy trains on {crew.devices}",
                where="workers.ray.gpus",
                allowed=f"0 or {crew.devices}" if crew.devices > 1 else "0 to 1",
                fix=f"gpus = {crew.devices}",
            )
        self._ray, self._crew, self._options = ray, crew, options
        self._workers: list[_Worker] = []

    def start(self, count: int) -> None:
        """Connect, and start as many actors; those for which there is no room wait for it."""
        if not count:
            return
        self._connect()
        demand = self._demand()
        room = self._room(demand)
        if room < count:
            self._crew.warn(f"the Ray cluster has room for {room} of {count} workers; the others wait for it")
        for index in range(count):
            log = self._crew.logs / f"worker-{index + 1}.log"
            worker = _Worker(log, Lives(self._crew.logs), self._group(demand))
            self._workers.append(worker)
            self._begin(worker, demand)

    def _connect(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(
                address=self._options.address,
                namespace=f"moe-search-{self._crew.name}",
                include_dashboard=None if self._options.address or os.environ.get("RAY_ADDRESS") else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            where = self._options.address or "this machine"
            raise ResourceError(f"the Ray cluster at {where} cannot be used: {_first_line(error)}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would leave without stopping the workers

    def _demand(self) -> dict[str, float]:
        """Return what one worker takes, by the names of Ray."""
        options, crew = self._options, self._crew
        has_gpus = self._ray.cluster_resources().get("GPU", 0) > 0
        gpus = options.gpus if options.gpus is not None else crew.devices if has_gpus else 0
        demand = {"CPU": float(options.cpus or crew.cores), "GPU": float(gpus), **options.resources}
        if options.memory_gb:
            demand["memory"] = options.memory_gb * 1e9
        return {name: amount for name, amount in demand.items() if amount}

    def _room(self, demand: Mapping[str, float]) -> int:
        """Return how many workers the nodes can hold that are there now, were they empty."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(int(min(node.get(name, 0) / amount for name, amount in demand.items())) for node in nodes)

    def _group(self, demand: Mapping[str, float]) -> Any:
        if demand.get("GPU", 0) <= 1:
            return None
        from ray.util.placement_group import placement_group  # noqa: PLC0415

        return placement_group([dict(demand)], strategy="STRICT_PACK")

    def _begin(self, worker: _Worker, demand: Mapping[str, float]) -> None:
        """Start an actor for a worker, wherever Ray finds room."""
        own = {name: amount for name, amount in demand.items() if name not in {"CPU", "GPU", "memory"}}
        settings: dict[str, Any] = {
            "num_cpus": demand["CPU"],
            "num_gpus": demand.get("GPU", 0),
            "resources": own,
            "max_concurrency": CALLS_AT_ONCE,
        }
        if "memory" in demand:
            settings["memory"] = demand["memory"]
        if worker.group is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: PLC0415

            settings["scheduling_strategy"] = PlacementGroupSchedulingStrategy(placement_group=worker.group)
        environment = thread_variables(self._crew.threads)
        environment |= {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        actor_class = self._ray.remote(Hand).options(**settings)
        worker.actor = actor_class.remote(tuple(self._crew.arguments), worker.log, environment)
        worker.begun, worker.ending = worker.actor.begun.remote(), worker.actor.work.remote()
        worker.lives.begin()

    def tend(self) -> int:
        """Start workers again whose process, actor or node died, and return how many wait or work."""
        for worker in self._workers:
            if worker.done or not self._is_ready(worker.ending):
                continue
            ended = self._ended(worker)
            worker.done = ended.code == Code.DONE
            if not worker.done:
                worker.lives.end(ended)
            self._end(worker)
            if not worker.done:
                self._begin(worker, self._demand())
        if any(worker.done for worker in self._workers):  # then whoever has no place yet has nothing to do
            for worker in self._workers:
                if not worker.done and not self._is_ready(worker.begun):
                    self._end(worker)
                    worker.done = True
        return sum(not worker.done for worker in self._workers)

    def _is_ready(self, reference: Any) -> bool:
        ready, _ = self._ray.wait([reference], timeout=0)
        return bool(ready)

    def _ended(self, worker: _Worker) -> Ended:
        """Return how a worker ended; an actor that is gone took it along."""
        try:
            return Ended(*self._ray.get(worker.ending))
        except self._ray.exceptions.RayActorError as error:
            code = Code.INTERRUPTED if self._has_lost_its_node(worker) else -signal.SIGKILL
            return Ended(code, f"its actor is gone: {_first_line(error)}")
        except self._ray.exceptions.RayError as error:
            return Ended(1, _first_line(error))

    def _has_lost_its_node(self, worker: _Worker) -> bool:
        """Say whether a dead actor died with its node, which says nothing about the worker."""
        try:
            node = self._ray.get(worker.begun, timeout=0)
        except self._ray.exceptions.RayError:
            return False
        return not any(other["Alive"] and other["NodeID"] == node for other in self._ray.nodes())

    def _end(self, worker: _Worker) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker.actor)

    def stop(self) -> None:
        """Have every worker save its trial and end; after the grace period end the actors, and leave the cluster."""
        if not self._workers:
            return
        left = [worker for worker in self._workers if not worker.done]
        for worker in left:
            if self._is_ready(worker.begun):
                worker.actor.stop.remote()
        endings = [worker.ending for worker in left if self._is_ready(worker.begun)]
        if endings:
            patience = self._crew.grace_seconds + MARGIN_SECONDS
            self._ray.wait(endings, num_returns=len(endings), timeout=patience)
        for worker in self._workers:
            self._end(worker)
            if worker.group is not None:
                from ray.util.placement_group import remove_placement_group  # noqa: PLC0415

                remove_placement_group(worker.group)
        self._workers = []
        self._ray.shutdown()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


OPTIONS, LAUNCHER = RayOptions, RayWorkers
