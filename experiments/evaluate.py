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
        """Take SIGINT and SIGTERM as a request: the trial at hand is given back at its next report."""
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:  # asked twice: at once
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
