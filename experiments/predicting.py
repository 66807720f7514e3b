"""The search's posterior as the predictor of the recommendation: search and extrapolation share one model."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moe_search.scaling.prediction import Prediction
from moe_search.search.surrogate import Surrogate
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.resolve import Resolved

Array = npt.NDArray[np.float64]
DRAWS = 1000


class SurrogatePredictor:
    """Predicts resolved designs, at full scale too, with the Gaussian process that steered the search.

    Args:
        surrogate: fitted to the campaign's trials.
        seed: of the joint draws.
    """

    def __init__(self, surrogate: Surrogate, *, seed: int = 0) -> None:
        self.surrogate, self._seed = surrogate, seed

    def predict(self, resolved: Sequence[Resolved]) -> Prediction:
        """Return bits per byte of each, without seed noise."""
        designs, scales = zip(*(_realised(one) for one in resolved), strict=True)
        inputs = self.surrogate.encode(designs, scales)
        mean = np.exp(self.surrogate.mean_at(inputs).numpy())

        def draw() -> Array:
            return self._draws(
                self.surrogate.mean_at(inputs).numpy(), self.surrogate.covariance_at(inputs, inputs).numpy()
            )

        return _DrawnWhenAsked(mean, draw)

    def _draws(self, mean: Array, covariance: Array) -> Array:
        values, vectors = np.linalg.eigh(covariance)  # a root that exists also where designs repeat
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
        normal = np.random.default_rng(self._seed).standard_normal((len(mean), DRAWS))
        return np.asarray(np.exp(mean[:, None] + root @ normal))


class _DrawnWhenAsked(Prediction):
    """A prediction whose joint draws are made on demand: thousands of sizes are ranked by their means alone."""

    def __init__(self, mean: Array, draw: Callable[[], Array]) -> None:
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "_draw", draw)

    @cached_property
    def draws(self) -> Array:
        """(rows, draws)."""
        drawn: Array = self.__dict__["_draw"]()
        return drawn


def _realised(one: Resolved) -> tuple[Design, Scale]:
    """Return what the integers amount to, as the surrogate was taught it."""
    scale = one.scale.replace(n_active=one.realised.n_active_non_embedding)
    if one.design.ffn == "dense":
        return one.design, scale
    design = one.design.replace(granularity=one.realised.granularity, activation_ratio=one.realised.activation_ratio)
    return design, scale
