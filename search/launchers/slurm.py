"""Workers as jobs of a SLURM cluster, submitted as an array by submitit.

A job outlives the command that submitted it: the ids are kept in the campaign's folder, and a ``run`` that comes back
finds the jobs that still wait or work. SLURM announces the end of a job's time, and many clusters a preemption, by a
signal; submitit then calls :meth:`WorkerJob.checkpoint`, which has the worker save and give back its trial, and puts
the job back into the queue under the same id. A job that its cluster ends in another way is submitted anew. When both
happen, there is a worker too many for a while, which does no harm: a trial has one holder, whoever asks for it.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from moe_search.search.job_queue import TAKEN_AWAY, JobQueue, SlurmQueue, ThisMachine, is_at_work
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

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

MEMORY = "slurm-jobs.json"
"""File of the campaign's folder with the ids of the jobs that were submitted and not stopped."""
MOST_REQUEUES = 100_000
"""A worker's job has no end of its own: it may run out of its time as often as it likes."""
SIGNAL_MARGIN_SECONDS = 30
"""Beyond the grace period, for submitit to start, to write the job down and to requeue it."""
SECONDS_BETWEEN_LOOKS = 2.0
"""At the files that ended jobs leave."""
SECONDS_BETWEEN_QUESTIONS = 15.0
"""To SLURM's controller, which many people share."""
WAITING = "PENDING"
"""The state of a job in the queue, requeued or not."""
VANISHED_SECONDS = 20.0
"""After which a job that SLURM does not know and that has left no file is gone: shared file systems are late."""
Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$")]
"""Text that stays on its line of a batch script."""


class SlurmOptions(Frozen):
    """What each worker's job asks the cluster for."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    minutes: PositiveInt = 240
    """Time limit of a job; when it is over the job goes back into the queue."""
    gpus: int = Field(default=0, ge=0)
    """As many as train one proxy together; 0: proxies train on CPU cores."""
    cpus: PositiveInt | None = None
    """Cores; None: what the worker's threads use."""
    memory_gb: float | None = Field(default=None, gt=0)
    sbatch: Mapping[Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")], Word | int | bool] = {}
    """Other options of sbatch by their long names, such as {reservation: moe}."""
    executor: Literal["slurm", "local"] = "slurm"
    """local: submitit's own job processes on this machine, to try a file without a cluster."""


class WorkerJob:
    """What a job does: run one worker. submitit pickles it, and calls ``checkpoint`` before the job is requeued.

    Args:
        arguments: what follows ``python``.
        folder: for what the worker says, and how it ended.
        threads: CPU threads of the worker.
        grace_seconds: from SIGTERM until the worker is gone.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, threads: int, grace_seconds: float) -> None:
        self._settings = tuple(arguments), folder, threads, grace_seconds
        self._pid: int | None = None
        self._asked = False

    def __call__(self) -> int:
        """Run a worker to its end, and write down how it ended."""
        from submitit import JobEnvironment  # noqa: PLC0415 - the options above are read where submitit is not

        arguments, folder, threads, _ = self._settings
        job = JobEnvironment().job_id
        note, log = folder / f"{job}-ended.json", folder / f"{job}-worker.log"
        note.unlink(missing_ok=True)
        # With it Lightning believes that SLURM has started all ranks of a training; the worker starts its own.
        os.environ.pop("SLURM_NTASKS", None)
        before = signal.signal(signal.SIGTERM, self._forward)
        try:
            process = spawn(arguments, log, thread_variables(threads), own_session=False)
            self._pid = process.pid
            # Waited for without reaping it: checkpoint() interrupts this wait, and waits itself.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            code = process.wait()
            if self._asked and code == Code.DONE:
                code = int(Code.INTERRUPTED)  # whether anything is left, a worker that nobody has interrupted says
        finally:
            signal.signal(signal.SIGTERM, before)
        _write_json(note, asdict(Ended(code, last_words(log))))
        return code

    def _forward(self, _number: int, _frame: FrameType | None) -> None:
        """Whoever ends the job, or ``run``, asks the worker too: SLURM signals some processes of a job, or all."""
        self._ask()

    def _ask(self) -> None:
        if self._pid is not None and not self._asked:
            self._asked = True
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def checkpoint(self) -> "DelayedSubmission":
        """Have the worker save and give back its trial, and return what the requeued job does."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415

        self._ask()
        if self._pid is not None:
            deadline = time.monotonic() + self._settings[3] + MARGIN_SECONDS
            while os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                    break
                time.sleep(0.05)
        return DelayedSubmission(WorkerJob(*self._settings))


@dataclass
class _Worker:
    job: str
    lives: Lives
    done: bool = False
    missed_since: float | None = None
    """Since when SLURM has not known the job, on the monotonic clock."""


class SlurmWorkers:
    """Workers as jobs.

    Args:
        crew: whom to start.
        options: what their jobs ask for.

    Raises:
        InvalidInputError: submitit is not installed, this is no machine of a SLURM cluster, or the GPUs do not fit.
    """

    def __init__(self, crew: Crew, options: SlurmOptions) -> None:
        try:
            import submitit  # noqa: PLC0415 - only those who use it have it
        except ImportError:
            raise missing("submitit", "slurm") from None
        if options.gpus not in {0, crew.devices}:
            raise InvalidInputError(
                f"a job has {options.gpus} GPUs but a proxy trains on {crew.devices}",
                where="workers.slurm.gpus",
                allowed=f"0 or {crew.devices}",
                fix=f"gpus = {crew.devices}",
            )
        if options.executor == "slurm" and shutil.which("sbatch") is None:
            raise InvalidInputError(
                "there is no sbatch here: this machine belongs to no SLURM cluster",
                where="workers.launcher",
                fix="start it on a login node, or try it with workers.slurm.executor = local",
            )
        self._crew, self._options = crew, options
        self._folder, self._memory = crew.logs / "slurm", crew.folder / MEMORY
        self._queue: JobQueue = SlurmQueue() if options.executor == "slurm" else ThisMachine()
        self._submitit = submitit
        self._workers: list[_Worker] = []
        self._next_look = self._next_question = 0.0
        self._states: Mapping[str, str] = {}

    def start(self, count: int) -> None:
        """Submit as many jobs as are missing: those of an earlier command that still wait or work are taken over."""
        if not count:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        remembered = self._remembered()
        states = self._queue.states(remembered) if remembered else {}
        if states is None:
            raise ResourceError(f"{self._queue.name} does not say whether jobs of an earlier command are still there")
        alive = [job for job in remembered if self._goes_on(job, states.get(job))]
        self._workers = [_Worker(job, Lives(self._crew.logs)) for job in alive]
        if alive:
            self._crew.warn(f"{len(alive)} jobs of an earlier command go on: {', '.join(alive)}")
        jobs = self._submit(max(count - len(alive), 0))
        self._workers += [_Worker(job, Lives(self._crew.logs)) for job in jobs]
        self._remember()

    def tend(self) -> int:
        """Submit jobs again that died and return how many wait or work; 0 once all have found nothing left to do."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS
            self._look()
        return sum(not worker.done for worker in self._workers)

    def _look(self) -> None:
        answered = False
        if time.monotonic() >= self._next_question:
            self._next_question = time.monotonic() + SECONDS_BETWEEN_QUESTIONS
            states = self._queue.states([worker.job for worker in self._workers])
            answered, self._states = states is not None, self._states if states is None else states
        for worker in self._workers:
            if worker.done:
                continue
            ended = self._fate(worker, answered=answered)
            if ended is None:
                continue
            worker.done = ended.code == Code.DONE
            if not worker.done:
                worker.lives.end(ended)
                (worker.job,) = self._submit(1)
                worker.lives.begin()
                self._remember()
        if any(worker.done for worker in self._workers):  # then whoever has not begun has nothing to do
            for worker in self._workers:
                if not worker.done and self._states.get(worker.job) == WAITING:
                    self._queue.cancel(worker.job)
                    worker.done = True
            self._remember()

    def _ended(self, job: str) -> Ended | None:
        """Return how a job's worker ended, from the note that it leaves."""
        try:
            return Ended(**json.loads((self._folder / f"{job}-ended.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def _fate(self, worker: _Worker, *, answered: bool) -> Ended | None:
        """Return how a worker's job ended; None while it waits or works, and until it is known.

        A worker that was asked to stop leaves its note just before its cluster ends the job, or requeues it: which one
        is for the cluster to say, and a job submitted beside a requeued one would be a worker too many for ever.
        """
        note, state = self._ended(worker.job), self._states.get(worker.job)
        if note is not None and note.code == Code.DONE:
            return note
        if not answered:
            return None
        if is_at_work(state):
            worker.missed_since = None
            return None
        if note is not None:
            return note
        worker.missed_since = worker.missed_since or time.monotonic()
        if time.monotonic() - worker.missed_since < VANISHED_SECONDS:  # the note may be on its way
            return None
        worker.missed_since = None
        words = f"{self._queue.name} says {state or 'nothing'} of job {worker.job}"
        log = self._folder / f"{worker.job}_0_log.err"
        return Ended(Code.INTERRUPTED if state in TAKEN_AWAY else 1, f"{words}; {last_words(log)}")

    def _submit(self, count: int) -> list[str]:
        """Submit ``count`` workers as one array, and return the ids of their jobs."""
        if not count:
            return []
        crew, options = self._crew, self._options
        kind = options.executor
        executor = self._submitit.AutoExecutor(
            folder=self._folder, cluster=kind, **{f"{kind}_max_num_timeout": MOST_REQUEUES}
        )
        settings: dict[str, Any] = {
            "name": f"moe-search-{crew.name}",
            "timeout_min": options.minutes,
            "cpus_per_task": options.cpus or crew.cores,
            "mem_gb": options.memory_gb,
            "gpus_per_node": options.gpus or None,
            "slurm_partition": options.partition,
            "slurm_account": options.account,
            "slurm_qos": options.qos,
            "slurm_constraint": options.constraint,
            "slurm_signal_delay_s": math.ceil(crew.grace_seconds) + SIGNAL_MARGIN_SECONDS,
            "slurm_array_parallelism": count,
            "slurm_additional_parameters": {"requeue": True, **options.sbatch},
        }
        executor.update_parameters(**{name: value for name, value in settings.items() if value is not None})
        job = WorkerJob(crew.arguments, self._folder, crew.threads, crew.grace_seconds)
        try:
            with self._queue.submitting(), executor.batch():
                jobs = [executor.submit(job) for _ in range(count)]
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # submitit's errors are RuntimeErrors
            raise ResourceError(f"the jobs were not submitted: {_last_line(error)}") from error
        return [str(job.job_id) for job in jobs]

    def stop(self) -> None:
        """Have every job save its trial and end, take those that wait from the queue, and in the end cancel all."""
        left = {worker.job for worker in self._workers if not worker.done}
        states = self._queue.states(left) if left else {}
        for job in sorted(left):
            if states is not None and states.get(job) == WAITING:
                self._queue.cancel(job)
            elif self._ended(job) is None:
                self._queue.ask(job)
        deadline = time.monotonic() + self._crew.grace_seconds + MARGIN_SECONDS
        while left and time.monotonic() < deadline:
            states = self._queue.states(left)
            if states is not None:
                for job in sorted(job for job in left if states.get(job) == WAITING):  # requeued meanwhile
                    self._queue.cancel(job)
                left = {job for job in left if self._goes_on(job, states.get(job))}
            pause = time.monotonic() + SECONDS_BETWEEN_LOOKS
            while time.monotonic() < pause and any(self._ended(job) is None for job in left):
                time.sleep(0.1)
        for job in sorted(left):
            self._queue.cancel(job)
        self._workers = []
        self._remember()

    def _goes_on(self, job: str, state: str | None) -> bool:
        """Say whether a job has a worker or will have one: after its note only if it is requeued."""
        return state == WAITING or (is_at_work(state) and self._ended(job) is None)

    def _remembered(self) -> list[str]:
        try:
            found = json.loads(self._memory.read_text(encoding="utf-8"))
            return [str(job) for job in found["jobs"]] if found["executor"] == self._options.executor else []
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            self._crew.warn(f"{self._memory} cannot be read; jobs of an earlier command, if any, are not taken over")
            return []

    def _remember(self) -> None:
        jobs = [worker.job for worker in self._workers if not worker.done]
        if jobs or self._memory.exists():
            _write_json(self._memory, {"executor": self._options.executor, "jobs": jobs})


def _write_json(path: Path, content: object) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


OPTIONS, LAUNCHER = SlurmOptions, SlurmWorkers
