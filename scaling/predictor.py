"""What `recommend` asks of whoever knows the loss: a fitted law here, the search's surrogate elsewhere."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl

from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.prediction import Prediction
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.resolve import Resolved, run_dimensions


class Predictor(Protocol):
    """Predicts the loss of resolved designs at their scale."""

    def predict(self, resolved: Sequence[Resolved]) -> Prediction:
        """Return the loss of each; draws are joint, so that differences between rows are meaningful."""
        ...


class LawPredictor:
    """A fitted law as a predictor.

    A draw is one resampled law plus, for each design, one residual of the fit that is the same at all its scales,
    scaled to the part of the residuals that runs of one design share: what the law does not explain about a design
    matters to the choice, while what differs between seeds of one design does not. The error of the law's form beyond
    the runs is common to all designs of equal compute, so that it widens a loss and not a difference between designs.
    """

    def __init__(self, fit: Fit, *, seed: int = 0) -> None:
        self.fit = fit
        self.seed = seed

    def predict(self, resolved: Sequence[Resolved]) -> Prediction:
        """Return the expected loss of each, in the unit of the fit."""
        mean, draws, scale = self.fit.log_draws(design_frame(resolved), seed=self.seed)
        noise: dict[str, Array] = {}
        lasting = np.sqrt(self.fit.design_share)
        for row, one in enumerate(resolved):
            key = one.design.fingerprint()
            if key not in noise:
                rng = np.random.default_rng([int(key, 16), self.seed])
                noise[key] = lasting * scale * rng.choice(self.fit.drawn_noise, size=draws.shape[1])
            draws[row] -= noise[key]
        return Prediction(np.exp(mean), np.exp(draws))


def design_frame(resolved: Sequence[Resolved]) -> pl.DataFrame:
    """Return the columns of a runs table that are known before training, one row a resolved design."""
    domains = sorted({domain for one in resolved for domain in one.design.mixture.domains})
    rows: list[dict[str, object]] = []
    for one in resolved:
        rows.append(
            {
                **{name: value for name, value in run_dimensions(one).items() if name != "experts_per_layer"},
                "tokens": float(one.scale.tokens),
                "train_flops": flops_per_token(one.architecture).train * one.scale.tokens,
                **{f"weight/{domain}": one.design.mixture[domain] for domain in domains},
            }
        )
    return pl.from_dicts(rows, infer_schema_length=None)
