"""Successive halving that first asks whether a scale may decide: promotion across scales through a gate.

A scale with ``BRACKET`` designs is compared with the next dearer one on ``CONTROLS`` of them, taken at random and run
there too. Where both rank the controls alike (Spearman's correlation of at least ``GATE``), the best third of the
designs goes on. Where they do not, the gate stays shut: the scale has no say and a random third goes on, so that a
scale that misleads costs its own runs and no more: what a careful team does by hand when it confirms a choice at the
next size before it goes on. What one scale can decide was measured by DataDecide (Magnusson et al. 2025).

It needs designs that were run at every fidelity of the ladder; on a table without any it has nothing to ask. Brackets
follow each other until the target is exhausted.
"""

import numpy as np
from scipy.stats import rankdata

from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import Array

BRACKET = 27
KEPT = 1 / 3
CONTROLS = 5
GATE = 0.5


class GatedPromotion:
    """Synchronous: a rung and its controls are complete before the next begins."""

    def __init__(self) -> None:
        self._rung: list[int] = []
        self._controls: list[int] = []
        self._fidelity = -1
        self._used: set[int] = set()

    def propose(self, view: View) -> list[Run]:
        """Return the runs of the next rung, or the controls of this one."""
        while True:
            if self._fidelity in {-1, view.target}:
                ready = np.flatnonzero(np.isfinite(view.table.loss).all(axis=0))
                left = [i for i in ready.tolist() if i not in self._used]
                if not left:
                    return []
                self._rung = [int(i) for i in view.rng.permutation(left)[:BRACKET]]
                self._used |= set(self._rung)
                self._fidelity = 0
                wanted = self._rung
            elif not self._controls and len(self._rung) > CONTROLS:
                self._controls = [int(i) for i in view.rng.choice(self._rung, CONTROLS, replace=False)]
                if new := _not_run(view, self._fidelity + 1, self._controls):
                    return new
                continue
            else:
                self._rung = self._promoted(view)
                self._controls = []
                self._fidelity += 1
                wanted = self._rung
            if new := _not_run(view, self._fidelity, wanted):
                return new

    def _promoted(self, view: View) -> list[int]:
        loss = dict(zip(view.runs, view.losses, strict=True))
        kept = max(int(len(self._rung) * KEPT), 1)
        here, above = (np.array([loss[s, i] for i in self._controls]) for s in (self._fidelity, self._fidelity + 1))
        if self._controls and _spearman(here, above) < GATE:
            return [int(i) for i in view.rng.choice(self._rung, kept, replace=False)]
        return sorted(self._rung, key=lambda i: loss[self._fidelity, i])[:kept]


def _not_run(view: View, fidelity: int, designs: list[int]) -> list[Run]:
    return [(fidelity, i) for i in designs if (fidelity, i) not in view.runs]


def _spearman(left: Array, right: Array) -> float:
    """Return the rank correlation; 0 where one side is all ties."""
    a, b = rankdata(left) - (len(left) + 1) / 2, rankdata(right) - (len(right) + 1) / 2
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


POLICY = GatedPromotion
