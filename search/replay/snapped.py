"""An Optuna sampler on a table: it suggests in a box, and the nearest design that is left at the target is run."""

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import create_trial

from moe_search.search.replay.nearest import nearest, point_of
from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import Array


class Snapped:
    """Tells the sampler what was run, asks it for one more point, and snaps that to the table.

    Args:
        sampler: of Optuna, seeded.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(sampler=sampler)
        self._told = 0

    def propose(self, view: View) -> list[Run]:
        """Return one run at the target."""
        left = view.open_designs(view.target)
        if not len(left):
            return []
        names = [f"x{j}" for j in range(view.table.features.shape[1])]
        box: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in names}
        for (_, design), loss in list(zip(view.runs, view.losses, strict=True))[self._told :]:
            values = dict(zip(names, _unit(view, design).tolist(), strict=True))
            self._study.add_trial(create_trial(params=values, distributions=box, value=loss))
            self._told += 1
        asked = self._study.ask(box)
        point = point_of(view, np.array([asked.params[name] for name in box]))
        self._study.tell(asked, state=optuna.trial.TrialState.FAIL)  # what is told is the design that was run
        return [(view.target, nearest(view, point, left))]


def _unit(view: View, design: int) -> Array:
    """The point of the box that a design stands for: weights as they are, other features as they are."""
    features, width = view.table.features[design], view.table.mixture_width
    unit: Array = np.clip(np.concatenate([features[:width] ** 2, features[width:]]), 0, 1)
    return unit
