"""One leg of a proxy: consecutive steps of the trunk or of one branch, as one Lightning fit.

Lightning owns the loop, the device and the precision. What a proxy adds is here: watching the loss, keeping snapshots,
reporting progress, and giving Ctrl-C back to the caller.
"""

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training.checkpoint import CheckpointFolder, Position, Snapshot, capture
from moe_search.proxies.training.data import step_loader
from moe_search.proxies.training.divergence import LossMonitor
from moe_search.proxies.training.lean_lightning import LightningEnvironment, pl
from moe_search.proxies.training.module import ProxyModule
from moe_search.proxies.training.precision import uses_bfloat16
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.errors import ResourceError

PROGRESS_SECONDS = 1.0
"""Time between two reports of progress."""
LOSSES_TOGETHER = 10
"""Steps whose losses are fetched at once on a GPU, so that the host does not wait for every step."""


@dataclass(frozen=True)
class Leg:
    """A stretch of consecutive steps with one rule for the learning rate."""

    name: str
    """Names its checkpoints: ``trunk`` or ``branch-<steps>``."""
    first_step: int
    last_step: int
    """The step after its last."""
    rate: Callable[[int], float]
    """Learning rate of a step over its peak."""
    snapshot_steps: Collection[int]
    """Steps after which branches leave."""
    stage: str
    """Names it in reports."""
    work_before: int
    """Steps that the proxy makes before this leg."""


class Watch(pl.Callback):
    """Looks at every step of a leg.

    Args:
        leg: which steps.
        start: where the fit begins.
        monitor: judges the losses.
        folder: where snapshots go.
        checkpoint_seconds: time between rolling checkpoints; infinity: none is kept.
        at_snapshot: called at ``leg.snapshot_steps``.
        report: called with this about every second.
    """

    def __init__(
        self,
        leg: Leg,
        *,
        start: Position,
        monitor: LossMonitor,
        folder: CheckpointFolder,
        checkpoint_seconds: float,
        at_snapshot: Callable[[Snapshot], None],
        report: Callable[["Watch"], None],
    ) -> None:
        self.leg = leg
        self.step, self.seconds = start.step, start.seconds
        self.monitor = monitor
        self.folder = folder
        self.checkpoint_seconds = checkpoint_seconds
        self.at_snapshot = at_snapshot
        self.report = report
        self.steps_per_second = 0.0
        """Since the last report."""
        self._losses: list[Tensor] = []
        self._begun = self._saved = self._reported = time.perf_counter()
        self._seconds_before, self._reported_step = start.seconds, start.step

    @property
    def position(self) -> Position:
        """Where training is."""
        return Position(step=self.step, seconds=self.seconds, loss=self.monitor.state)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks: set-up is no training."""
        self._begun = self._saved = self._reported = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the loss; take the snapshot, the checkpoint and the report that are due."""
        assert isinstance(pl_module, ProxyModule)
        now = time.perf_counter()
        step = pl_module.first_step + batch_idx + 1
        is_last = step == self.leg.last_step
        snapshot_due = step in self.leg.snapshot_steps
        # After the last step comes what ends the leg: the trunk's last snapshot, the branch's measurement.
        checkpoint_due = not is_last and now - self._saved >= self.checkpoint_seconds
        report_due = not is_last and now - self._reported >= PROGRESS_SECONDS
        together = LOSSES_TOGETHER if pl_module.device.type == "cuda" else 1

        self._losses.append(outputs["loss"])
        if is_last or snapshot_due or checkpoint_due or report_due or len(self._losses) >= together:
            losses = torch.stack(self._losses).tolist()
            self._losses.clear()
            self.monitor.update(step - len(losses), losses)
        self.step, self.seconds = step, self._seconds_before + now - self._begun

        if snapshot_due:
            self.at_snapshot(self._snapshot(trainer, pl_module))
        if checkpoint_due:
            self._save(trainer, pl_module)
        if report_due or is_last:
            self.steps_per_second = (step - self._reported_step) / (now - self._reported)
            self._reported, self._reported_step = now, step
        if report_due:
            try:
                self.report(self)
            except BaseException:  # the caller stops training: leave it where it is
                if math.isfinite(self.checkpoint_seconds):
                    self._save(trainer, pl_module)
                raise

    def _snapshot(self, trainer: pl.Trainer, module: ProxyModule) -> Snapshot:
        return Snapshot(capture(module.model, trainer.optimizers[0]), self.position)

    def _save(self, trainer: pl.Trainer, module: ProxyModule) -> None:
        self.folder.save(self.leg.name, self._snapshot(trainer, module))
        self._saved = time.perf_counter()


def choose_device(recipe: TrainingRecipe) -> torch.device:
    """Return the device that the recipe asks for.

    Raises:
        ResourceError: CUDA is asked for and not there.
    """
    has_cuda = torch.cuda.is_available()
    if recipe.accelerator == "cuda" and not has_cuda:
        raise ResourceError("training.accelerator is cuda, but this machine has no CUDA device that torch can use")
    return torch.device("cuda" if has_cuda and recipe.accelerator != "cpu" else "cpu")


def fit_leg(
    module: ProxyModule, watch: Watch, *, stream: MixtureStream, recipe: TrainingRecipe, device: torch.device
) -> None:
    """Train ``module`` from its first step to the end of the leg that ``watch`` looks at.

    Raises:
        DivergedError: the loss says so.
        KeyboardInterrupt: Ctrl-C, or raised by a callback.
    """
    is_cuda = device.type == "cuda"
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=1,
        # One process a proxy, whatever cluster variables say: workers are started by us, not by Lightning.
        plugins=[LightningEnvironment()],
        precision="bf16-mixed" if uses_bfloat16(recipe.precision, device) else "32-true",
        # CPU kernels are deterministic; some CUDA ones have no deterministic form, which must not end a campaign.
        deterministic="warn" if is_cuda else False,
        max_epochs=1,
        callbacks=[watch],
        use_distributed_sampler=False,
        barebones=True,
    )
    loader = step_loader(stream, module.first_step, watch.leg.last_step, pin_memory=is_cuda)
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, loader)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit(1) and leaves it disabled.
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` is memory running out, on a GPU or on the CPU (where torch has no class for it)."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def training_settings(recipe: TrainingRecipe) -> Iterator[None]:
    """Set threads, warnings and random state for training, and put everything back."""
    threads, is_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    memory: Any = torch.utils.deterministic  # a module with a property, which type checkers do not see
    fills = memory.fill_uninitialized_memory
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
        logger.setLevel(logging.ERROR)
        torch.set_num_threads(recipe.threads)
        memory.fill_uninitialized_memory = False  # a pass over every new tensor that only hunts for bugs
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(is_deterministic)
            memory.fill_uninitialized_memory = fills
            logger.setLevel(level)
