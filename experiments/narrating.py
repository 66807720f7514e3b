"""What a worker's log says of each trial: that it starts, and how it ends."""

import logging
import time

from moe_search.experiments.logging import about, event
from moe_search.search.trial import Evaluate, Report, Trial
from moe_search.spaces.run import Run


def narrated(evaluate: Evaluate) -> Evaluate:
    """Return ``evaluate`` with the events ``trial_started``, and ``trial_trained`` or ``trial_interrupted``, logged."""

    def told(trial: Trial, report: Report) -> list[Run]:
        began = time.monotonic()
        with about(trial=trial.number):
            event(
                "trial_started",
                run_key=trial.run_key,
                n_active=trial.scale.n_active,
                tokens=trial.scale.tokens,
                predicted_flops=trial.predicted_cost,
            )
            try:
                runs = evaluate(trial, report)
            except BaseException as error:
                event(
                    "trial_interrupted",
                    str(error),
                    level=logging.WARNING,
                    reason=type(error).__name__.lstrip("_"),
                    seconds=time.monotonic() - began,
                )
                raise
            last = runs[-1]
            event("trial_trained", status=last.status, bpb=last.bpb, seconds=time.monotonic() - began)
            return runs

    return told
