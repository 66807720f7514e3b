"""What search calls an evaluation: train one proxy, on this machine, from wherever it was left."""

import os
import signal
from pathlib import Path
from types import FrameType

from moe_search.experiments.objective import weigh
from moe_search.experiments.spec.campaign import Spec
from moe_search.proxies.corpus import Corpus
from moe_search.proxies.training.run import Progress, train_proxy
from moe_search.search.trial import Evaluate, Report, Trial
from moe_search.spaces.resolve import resolve
from moe_search.spaces.run import Run


class Stop:
    """Whether this process should save its state and end: asked by a signal, or left alone by its parent.

    Args:
        parent: process that started this one; when it is gone, so is the reason to go on. None: nobody's.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._parent = parent
        self._asked = False

    def listen(self) -> None:
        """Take SIGINT, SIGTERM and SIGUSR2 as a request: the trial at hand is given back at its next report.

        SLURM announces by SIGUSR2 that a job's time is over, if asked to, and its default action would kill the worker.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        # Ctrl-C pressed twice: at once. A scheduler may well say SIGTERM twice, to a job and to each of its processes.
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        """Say whether to stop."""
        return self._asked or (self._parent is not None and os.getppid() != self._parent)


def make_evaluate(spec: Spec, corpus: Corpus, checkpoints: Path, *, context: str) -> Evaluate:
    """Return the evaluation of a campaign.

    Args:
        spec: the campaign.
        corpus: the prepared text, opened once a process.
        checkpoints: a trial resumes from ``checkpoints/<run_key>``.
        context: fingerprint of recipe, data and code, for the keys of the runs.
    """
    recipe = spec.training.replace(threads=spec.workers.threads)

    def evaluate(trial: Trial, report: Report) -> list[Run]:
        furthest = (float("nan"), 0)

        def on_progress(progress: Progress) -> None:
            # A shorter horizon's branch runs over tokens that the trunk has passed: the curve keeps the trunk's values.
            nonlocal furthest
            if progress.position > furthest[1]:
                furthest = (progress.train_loss, progress.position)
            report(*furthest)

        runs = train_proxy(
            resolve(trial.design, trial.scale, spec.shape),
            horizons=trial.horizons,
            corpus=corpus,
            recipe=recipe,
            seed=trial.seed,
            context=context,
            checkpoint_dir=checkpoints / trial.run_key,
            trial=trial.number,
            on_progress=on_progress,
        )
        weights = spec.objective.weights
        return [weigh(run, weights) for run in runs] if weights else runs

    return evaluate
