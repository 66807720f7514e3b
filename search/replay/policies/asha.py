"""Successive halving over the fidelities: everybody starts at the cheapest, the best third goes on (Li et al. 2018).

It needs designs that were run at every fidelity of the ladder; on a table without any it has nothing to ask. Brackets
of ``BRACKET`` designs follow each other until the target is exhausted.
"""

import numpy as np

from moe_search.search.replay.policy import Run, View

BRACKET = 27
KEPT = 1 / 3


class SuccessiveHalving:
    """Synchronous: a rung is complete before the next begins."""

    def __init__(self) -> None:
        self._rung: list[int] = []
        self._fidelity = -1
        self._used: set[int] = set()

    def propose(self, view: View) -> list[Run]:
        """Return the runs of the next rung."""
        ready = np.flatnonzero(np.isfinite(view.table.loss).all(axis=0))
        if self._fidelity in {-1, view.target}:
            left = [i for i in ready.tolist() if i not in self._used]
            if not left:
                return []
            self._rung = [int(i) for i in view.rng.permutation(left)[:BRACKET]]
            self._used |= set(self._rung)
            self._fidelity = 0
        else:
            loss = dict(zip(view.runs, view.losses, strict=True))
            ranked = sorted(self._rung, key=lambda i: loss[self._fidelity, i])
            self._rung = ranked[: max(int(len(ranked) * KEPT), 1)]
            self._fidelity += 1
        return [(self._fidelity, i) for i in self._rung]


POLICY = SuccessiveHalving
