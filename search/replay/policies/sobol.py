"""A scrambled Sobol sequence at the target: even coverage, no model."""

from scipy.stats.qmc import Sobol

from moe_search.search.replay.nearest import nearest, point_of
from moe_search.search.replay.policy import Run, View


class SobolSequence:
    """Each point of the sequence is snapped to the nearest design that is left."""

    def __init__(self) -> None:
        self._sequence: Sobol | None = None

    def propose(self, view: View) -> list[Run]:
        """Return one run at the target."""
        left = view.open_designs(view.target)
        if not len(left):
            return []
        if self._sequence is None:
            self._sequence = Sobol(view.table.features.shape[1], rng=view.rng)
        return [(view.target, nearest(view, point_of(view, self._sequence.random(1)[0]), left))]


POLICY = SobolSequence
