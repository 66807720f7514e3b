"""Boosted trees on mixture weights, as in RegMix (Liu et al. 2024, arXiv 2407.01492), by the package LightGBM.

1000 trees at a learning rate of 0.01, else LightGBM's defaults, of the logarithm of the loss; no early stopping, which
would need runs that are not learned from. On the test mixtures of RegMix (Pile-CC, 512 models of 1M parameters) trees
order models of 1M and 60M better than an exponential law and models of 1B worse; the law ``mixture`` is better than
they are on all three. Trees are constant beyond the runs: the best mixture that they see is one near a run.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from moe_search.scaling.columns import domain_names
from moe_search.scaling.domain_weights import weights_for
from moe_search.scaling.law import Array
from moe_search.scaling.regressions.regression import Regression, Trained
from moe_search.spaces.errors import InvalidInputError

ROUNDS = 1000
PARAMETERS = {
    "objective": "regression",
    "learning_rate": 0.01,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
"""One thread and one layout of the histograms: the same trees everywhere."""
FEWEST = 40
"""Runs: a leaf holds 20, so that fewer than two leaves' worth give one number for every mixture."""


@dataclass(frozen=True)
class Trees:
    """An ensemble and the domains that it was trained on."""

    booster: Any
    domains: Sequence[str]

    def predict(self, frame: pl.DataFrame) -> Array:
        """Return the loss (rows,) of mixtures, whatever their size and tokens."""
        log_loss: Array = self.booster.predict(weights_for(frame, self.domains, law=REGRESSION.name))
        return np.exp(log_loss)


class LightGBM(Regression):
    """Trees of LightGBM, where it is installed."""

    name = "lightgbm"
    source = "RegMix, Liu et al. 2024, arXiv 2407.01492; LightGBM, Ke et al. 2017"
    convention = "mixture weights (weight/<domain>) alone; nothing about other sizes or numbers of tokens"

    def train(self, frame: pl.DataFrame, column: str, *, seed: int = 0) -> Trained:
        """Grow the trees on the logarithm of the losses."""
        if importlib.util.find_spec("lightgbm") is None:
            raise InvalidInputError(
                "the regression lightgbm needs the package LightGBM, which is not installed",
                where="--law lightgbm",
                fix="pip install 'moe-search[lightgbm]'",
            )
        domains = domain_names(frame)
        weights = weights_for(frame, domains, law=self.name)
        if frame.height < FEWEST:
            raise InvalidInputError(
                f"{frame.height} runs are too few for the regression lightgbm, whose leaves hold 20 each",
                where="--law lightgbm",
                allowed=f"at least {FEWEST} runs that are not held out",
                fix="--law mixture",
            )
        package: Any = importlib.import_module("lightgbm")
        losses = np.log(frame[column].cast(pl.Float64).to_numpy())
        data = package.Dataset(weights, losses)
        return Trees(package.train({**PARAMETERS, "seed": seed}, data, num_boost_round=ROUNDS), domains)


REGRESSION = LightGBM()
