"""Several laws as one prediction, where none of them predicts larger runs better than the others.

Weights maximise the log score of the mixture of the laws' predictions on the runs above the rolling cuts (Yao et al.
2018), and are shrunk to equal ones: runs above one cut share its error, so that a cut, however many runs are above it,
counts as ``RUNS_A_CUT`` independent ones, and every law starts with one.

A draw of the stack belongs to one law, for all rows: what laws disagree about is a doubt that does not average out
over the rows, and differences between rows are those of a law, never of a mean of laws that nothing obeys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import t as student

from moe_search.scaling.calibration import LEAST_VARIANCE, PRIOR_MEDIAN
from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.prediction import Prediction
from moe_search.scaling.rolling import CutErrors, Rolling
from moe_search.spaces.errors import InvalidInputError

RUNS_A_CUT = 4.0
ROUNDS = 500
"""Of expectation maximisation, which converges long before."""


@dataclass(frozen=True)
class Stack:
    """Laws with weights that sum to one."""

    fits: tuple[Fit, ...]
    weights: tuple[float, ...]
    """One a fit."""

    def predict(self, frame: pl.DataFrame, *, seed: int = 0) -> Prediction:
        """Predict new runs (rows,): each law gives as many draws as its weight says."""
        predictions = [fit.predict(frame, seed=seed + place) for place, fit in enumerate(self.fits)]
        mean = np.exp(sum(w * np.log(one.mean) for w, one in zip(self.weights, predictions, strict=True)))
        rng = np.random.default_rng((seed, 21))
        most = max(one.draws.shape[1] for one in predictions)
        counts = np.diff(np.round(np.cumsum((0.0, *self.weights)) * most)).astype(int)
        parts = [
            one.draws[:, rng.choice(one.draws.shape[1], count, replace=count > one.draws.shape[1])]
            for one, count in zip(predictions, counts, strict=True)
        ]
        draws = np.concatenate(parts, axis=1)
        return Prediction(np.asarray(mean), draws[:, rng.permutation(draws.shape[1])])

    def to_json(self) -> dict[str, Any]:
        """Return law to weight."""
        return {fit.law.name: weight for fit, weight in zip(self.fits, self.weights, strict=True)}


def stack(fits: Sequence[Fit], rolled: Rolling) -> Stack:
    """Return the fits with their weights.

    Args:
        fits: to the same table.
        rolled: the same laws, rolled on that table.

    Raises:
        InvalidInputError: no fit is given.
    """
    if not fits:
        raise InvalidInputError("there is no fit to stack")
    names = [fit.law.name for fit in fits]
    return Stack(tuple(fits), tuple(map(float, stacking_weights(names, rolled))))


def stacking_weights(names: Sequence[str], rolled: Rolling) -> Array:
    """Return the weights (laws,) after the cuts that all laws were fitted at; equal ones where there is none."""
    by_cut: dict[float, dict[str, CutErrors]] = {}
    for score, errors in zip(rolled.scores, rolled.errors, strict=True):
        by_cut.setdefault(score.train_flops, {})[score.law] = errors
    complete = [cut for cut in by_cut.values() if all(name in cut for name in names)]
    weights = np.full(len(names), 1 / len(names))
    if not complete:
        return weights
    scores = np.concatenate([np.stack([log_score(cut[name]) for name in names]) for cut in complete], axis=1)
    counts = np.concatenate(
        [np.full(len(cut[names[0]].error), RUNS_A_CUT / len(cut[names[0]].error)) for cut in complete]
    )
    density = np.exp(scores - scores.max(axis=0))
    for _ in range(ROUNDS):
        share = weights[:, None] * density
        weights = 1 + (counts * share / share.sum(axis=0)).sum(axis=1)
        weights /= weights.sum()
    return weights


def log_score(cut: CutErrors) -> Array:
    """Return the log density (held out,) that a law gave to each run above a cut, by Student's t.

    Its variance is that of the resamples, of noise, and of the error of the form before anything was learnt.
    """
    deviations = cut.deviations[:, np.isfinite(cut.deviations).all(axis=0)]
    form = (PRIOR_MEDIAN * cut.reach) ** 2
    variance = deviations.var(axis=1) + max(float(np.mean(cut.noise**2)), LEAST_VARIANCE) + form.sum(axis=0)
    density: Array = student.logpdf(cut.error, max(cut.freedom, 3.0), scale=np.sqrt(variance))
    return density
