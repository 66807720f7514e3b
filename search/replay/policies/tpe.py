"""Optuna's tree-structured Parzen estimator at the target, with its defaults (Bergstra et al. 2011)."""

from optuna.samplers import TPESampler

from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.snapped import Snapped


class TPE:
    """A mixture is the normalised point of a box."""

    def __init__(self) -> None:
        self._inner: Snapped | None = None

    def propose(self, view: View) -> list[Run]:
        """Return one run at the target."""
        self._inner = self._inner or Snapped(TPESampler(seed=int(view.rng.integers(2**31))))
        return self._inner.propose(view)


POLICY = TPE
