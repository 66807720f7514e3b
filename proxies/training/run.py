r"""Train one proxy: a trunk, a decay branch for every token horizon, one Run for each.

    trunk     0 ------------- b1 ------------ b2 ------------- b3        constant rate, one Lightning fit
    branches                    \__ h1          \___ h2          \___ h3   each a short fit from a trunk snapshot

The trunk ends where the last branch leaves it. It is not touched by the branches, so the run of horizon h2 is, bit for
bit, the run that would have been trained to h2 alone. With a checkpoint folder, a killed proxy continues bit for bit,
and a finished horizon is never trained again.
"""

import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakSet

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.model import DecoderLM, build_model
from moe_search.proxies.training.checkpoint import CheckpointFolder, Position, Snapshot, restore_model
from moe_search.proxies.training.divergence import DivergedError, LossMonitor
from moe_search.proxies.training.evaluation import Evaluation, evaluate
from moe_search.proxies.training.leg import (
    Leg,
    Watch,
    choose_device,
    fit_leg,
    is_out_of_memory,
    training_settings,
)
from moe_search.proxies.training.module import ProxyModule
from moe_search.proxies.training.plan import Failure, Measured, ProxyPlan
from moe_search.proxies.training.precision import choose_products, float32_products, onednn_objection
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.schedule import Horizon, branch_rate, trunk_rate
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.resolve import Resolved
from moe_search.spaces.run import Run

GRACE_STEPS = 30
"""Steps after warm-up before a high loss counts: the smoothed loss still remembers the first steps."""


class Progress(Frozen):
    """How far a proxy is, for progress bars and live curves."""

    tokens: int
    """Tokens of work done, trunk and branches together."""
    total_tokens: int
    """Tokens of work in all."""
    train_loss: float
    """Mean of the last steps, nats a token."""
    tokens_per_second: float
    """Of training, since the last report."""
    stage: str
    """``trunk``, or ``decay to <tokens>``."""
    position: int
    """Tokens that the model in training has seen: the x-axis of its curve."""
    run: Run | None = None
    """The run, at the end of its branch."""


def train_proxy(
    resolved: Resolved,
    *,
    horizons: Sequence[int],
    corpus: Corpus,
    recipe: TrainingRecipe,
    seed: int,
    context: str = "",
    checkpoint_dir: Path | None = None,
    trial: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Run]:
    """Train a proxy to every horizon and measure it on the held-out text of every domain.

    Args:
        resolved: design, scale and architecture; ``scale.tokens`` is not looked at.
        horizons: training tokens; each is rounded to whole steps, and ``Run.tokens`` is what was trained on.
        corpus: training and held-out text; must have the architecture's vocabulary.
        recipe: everything else that changes a result.
        seed: of initialisation and data order.
        context: fingerprint of recipe, data and code, for ``run_key``.
        checkpoint_dir: folder of this proxy; with it, the same call continues after a kill.
        trial: number of the trial, recorded in the runs.
        on_progress: called about every second and at the end of every branch; what it raises ends training.

    Returns:
        One run a horizon, shortest first. A proxy that diverges or runs out of memory has runs of that status for the
        horizons it did not reach.

    Raises:
        InvalidInputError: horizons that are too short, a mixture or vocabulary that is not the corpus's, a checkpoint
            folder of another proxy, or of one whose float32 products this machine cannot compute.
        ResourceError: no CUDA device where one is asked for; checkpoints that cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(own_garbage())
        stack.enter_context(training_settings(recipe))
        plan = ProxyPlan(resolved, tuple(horizons), corpus, recipe, seed, context, trial, device=choose_device(recipe))
        plan.horizons, plan.stream  # noqa: B018 - refuse what is impossible before a folder is made
        root = checkpoint_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moe-search-")))
        wanted = choose_products(recipe.float32_matmul, plan.device)
        folder = CheckpointFolder(root, plan.identity, float32_matmul=wanted)
        objection = onednn_objection(plan.device) if folder.float32_matmul == "onednn" else None
        if objection:
            raise InvalidInputError(
                f"the proxy in {root} was begun with oneDNN's float32 products, but onednn {objection}",
                where="training.float32_matmul",
                fix="go on with it on a machine like the first, or delete the folder",
            )
        stack.enter_context(float32_products(folder.float32_matmul))
        plan = replace(plan, float32_matmul=folder.float32_matmul)
        return _Training(plan, folder, on_progress, resumable=bool(checkpoint_dir)).runs()


@contextmanager
def own_garbage() -> Iterator[None]:
    """Collect at the end what became garbage inside, without a look at the million objects of imported libraries.

    Trainer, module and optimiser refer to each other: uncollected, a worker grows by 80 MB with every proxy.
    """
    if len(_LIVING):  # an exception held the last one when it ended
        gc.collect()
    sets_aside = gc.get_freeze_count() == 0
    if sets_aside:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if sets_aside:
            gc.unfreeze()


class _Training:
    """One call of ``train_proxy``."""

    def __init__(
        self,
        plan: ProxyPlan,
        folder: CheckpointFolder,
        on_progress: Callable[[Progress], None] | None,
        *,
        resumable: bool,
    ) -> None:
        _LIVING.add(self)
        self.plan, self.folder, self.on_progress = plan, folder, on_progress
        self.checkpoint_seconds = plan.recipe.checkpoint_seconds if resumable else math.inf
        self.model = build_model(plan.resolved.architecture, seed=plan.seed, backend=plan.recipe.backend)

    def runs(self) -> list[Run]:
        """Train what the folder does not have yet and return the runs."""
        failure = self._train_trunk()
        work = self.plan.horizons[-1].branch_step
        runs = []
        for horizon in self.plan.horizons:
            runs.append(self.folder.result(horizon.steps) or self._train_branch(horizon, failure, work))
            work += horizon.decay_steps
        if all(run.status != "oom" for run in runs):
            self.folder.drop_tensors()
        return runs

    def _train_trunk(self) -> Failure | None:
        """Train the trunk until every horizon without a result has its starting point."""
        open_horizons = [plan for plan in self.plan.horizons if self.folder.result(plan.steps) is None]
        waiting = [plan for plan in open_horizons if self.folder.start(plan.steps) is None]
        if not waiting:
            return None

        def keep(snapshot: Snapshot) -> None:
            for plan in waiting:
                if plan.branch_step == snapshot.position.step:
                    self.folder.save_start(plan.steps, snapshot)

        known = [self.folder.latest("trunk", at_most=waiting[0].branch_step)]
        known += [self.folder.start(plan.steps) for plan in open_horizons if plan.steps < waiting[0].steps]
        begin = max((point for point in known if point), key=lambda point: point.position.step, default=None)
        if begin is not None:
            keep(begin)
        leg = Leg(
            name="trunk",
            stage="trunk",
            first_step=0,
            last_step=waiting[-1].branch_step,
            rate=partial(trunk_rate, warmup_steps=self.plan.recipe.warmup_steps),
            snapshot_steps=frozenset(plan.branch_step for plan in waiting),
            work_before=0,
        )
        watch = self._watch(leg, begin.position if begin else Position(step=0), keep)
        return self._fit(watch, begin)

    def _train_branch(self, horizon: Horizon, failure: Failure | None, work_before: int) -> Run:
        """Decay from the trunk to ``horizon``, measure, and return the run."""
        plan = self.plan
        start = self.folder.start(horizon.steps)
        if start is None:
            assert failure is not None, "a trunk that did not fail leaves a starting point for every horizon"
            return self._settle(horizon, plan.failed_run(horizon, failure))
        leg = Leg(
            name=f"branch-{horizon.steps:08d}",
            stage=f"decay to {horizon.steps * plan.batch_tokens}",
            first_step=horizon.branch_step,
            last_step=horizon.steps,
            rate=partial(branch_rate, horizon=horizon, shape=plan.recipe.decay_shape),
            snapshot_steps=(),
            work_before=work_before,
        )
        begin = self.folder.latest(leg.name) or start
        watch = self._watch(leg, begin.position, keep=lambda _: None)
        measured: list[tuple[Evaluation, float]] = []

        def measure(model: DecoderLM) -> None:
            begun = time.perf_counter()
            evaluation = evaluate(
                model,
                plan.corpus,
                max_tokens=plan.recipe.evaluation_tokens,
                split=plan.recipe.evaluation_split,
                device=plan.device,
            )
            if not math.isfinite(evaluation.loss):
                raise DivergedError(f"the held-out loss was {evaluation.loss}", horizon.steps)
            measured.append((evaluation, time.perf_counter() - begun))

        failure = self._fit(watch, begin, measure)
        if failure is not None:
            return self._settle(horizon, plan.failed_run(horizon, failure))
        (evaluation, seconds), train_loss = measured[0], watch.monitor.train_loss
        assert train_loss is not None, "a branch has at least one step"
        run = plan.finished_run(horizon, Measured(evaluation, train_loss, watch.position.seconds, seconds))
        self._settle(horizon, run)
        self._report(watch, run)
        return run

    def _settle(self, horizon: Horizon, run: Run) -> Run:
        """Store a run, unless it ran out of memory and may come out otherwise next time."""
        if run.status != "oom":
            self.folder.save_result(horizon.steps, run)
        return run

    def _watch(self, leg: Leg, start: Position, keep: Callable[[Snapshot], None]) -> Watch:
        plan = self.plan
        monitor = LossMonitor(
            bound=plan.train_bound,
            margin=plan.recipe.divergence_margin,
            grace_steps=plan.recipe.warmup_steps + GRACE_STEPS,
            state=start.loss,
        )
        return Watch(
            leg,
            start=start,
            monitor=monitor,
            folder=self.folder,
            checkpoint_seconds=self.checkpoint_seconds,
            at_snapshot=keep,
            report=self._report,
        )

    def _fit(
        self, watch: Watch, begin: Snapshot | None, at_end: Callable[[DecoderLM], None] | None = None
    ) -> Failure | None:
        """Train a leg from ``begin`` (None: from initialisation) to its end."""
        plan, leg = self.plan, watch.leg
        if watch.position.step == leg.last_step:
            return None
        if begin is not None:
            restore_model(self.model, begin.tensors)
        module = ProxyModule(
            self.model,
            recipe=plan.recipe,
            learning_rate=plan.learning_rate,
            rate=leg.rate,
            seed=plan.seed,
            first_step=watch.position.step,
            optimizer_tensors=begin.tensors if begin else None,
            at_end=at_end,
        )
        try:
            fit_leg(module, watch, stream=plan.stream, recipe=plan.recipe, device=plan.device)
        except DivergedError as error:
            return Failure(status="diverged", message=str(error), steps=error.steps)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = f"out of memory on {plan.device.type}: {str(error).partition(chr(10))[0]}"
            return Failure(status="oom", message=message, steps=watch.position.step)
        return None

    def _report(self, watch: Watch, run: Run | None = None) -> None:
        """Tell the caller how far ``watch`` is."""
        if self.on_progress is None or watch.monitor.train_loss is None:
            return
        leg, step, batch = watch.leg, watch.position.step, self.plan.batch_tokens
        self.on_progress(
            Progress(
                tokens=(leg.work_before + step - leg.first_step) * batch,
                total_tokens=self.plan.total_steps * batch,
                train_loss=watch.monitor.train_loss,
                tokens_per_second=watch.steps_per_second * batch,
                stage=leg.stage,
                position=step * batch,
                run=run,
            )
        )


_LIVING: WeakSet[_Training] = WeakSet()
"""Calls of ``train_proxy`` whose model is still in memory."""
