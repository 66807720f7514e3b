"""Optuna's Gaussian-process sampler at the target, with its defaults."""

from optuna.samplers import GPSampler

from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.snapped import Snapped
from moe_search.search.suggest import one_thread


class GaussianProcess:
    """A mixture is the normalised point of a box."""

    def __init__(self) -> None:
        self._inner: Snapped | None = None

    def propose(self, view: View) -> list[Run]:
        """Return one run at the target."""
        self._inner = self._inner or Snapped(GPSampler(seed=int(view.rng.integers(2**31))))
        with one_thread():
            return self._inner.propose(view)


POLICY = GaussianProcess
