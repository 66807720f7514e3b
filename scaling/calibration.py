"""Learn from rolling cuts how much wider a law's predictions have to be: its record, not its claim.

The errors above a cut are taken as normal, with the covariance of the resamples below it, plus noise, plus tau² times
the products of the reaches (:mod:`~moe_search.scaling.widening`). The prior of tau is log-normal; the cuts of a table
share runs, so that each counts in part. A table without cuts keeps the prior: extrapolation is not free of doubt
because nobody could look.

The prior's median and the weight of a cut were set once, on simulated worlds with every law of the library as the
truth, such that intervals cover at ten times the compute whether or not the fitted law is the true one. On others, 20
of each of 24 truths with ladders of 30 to 300 runs (``benchmarks/coverage.py``, results/20261130T2005-coverage.json),
95 % intervals hold, in percent of new runs:

    fitted law                          inside    at ten times the compute (without widening)
    the true one (20 laws)                95        98 (95)    the worst: farseer 93
    another law than the true one (7)     96        92 (81)    the worst, bent worlds with them: kaplan 81
    any law, in a bent world (4 forms)    95        90 (72)    the worst: kaplan bent, fitted by itself 67

The widths are 6.8, 6.3 and 5.1 times the mean error at ten times the compute; 4.9 would do for normal errors of known
size. What fails is Kaplan's law, which has no irreducible loss, in bent worlds: above every cut it errs by about 1 % in
one direction, at ten times the compute by 3 to 4 %, and the error of the form is taken to have either sign.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from moe_search.scaling.expressions import mask
from moe_search.scaling.extrapolation import edges
from moe_search.scaling.fit import complete_runs, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import score
from moe_search.scaling.law import Array
from moe_search.scaling.rolling import RESAMPLES, STARTS, CutErrors, Rolling, roll
from moe_search.scaling.widening import POWER, Widening

PRIOR_MEDIAN, PRIOR_SPREAD = 0.002, 1.0
"""Of tau, in log loss at one decade beyond the runs, and of its logarithm."""
CUT_WEIGHT = 0.5
"""Of a cut's log likelihood."""
VALUES = 20
"""Equally probable values of tau that are kept."""
LEAST_VARIANCE = 1e-8
"""Of noise: a fit without residuals is no proof that there is none."""
GRID = np.exp(np.linspace(np.log(1e-4), np.log(0.5), 121))


def widen(
    fitted: Fit,
    frame: pl.DataFrame,
    *,
    holdout: str | None = None,
    cluster: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    starts: int = STARTS,
    rolled: Rolling | None = None,
) -> Fit:
    """Return the fit with its widening, its held-out runs judged anew with it.

    Args:
        fitted: a fit to ``frame``; without resamples it has no intervals to widen, and is returned as it is.
        frame: the table that was handed to :func:`~moe_search.scaling.fit.fit`.
        holdout: as handed to it: what was held out is not learnt from.
        cluster: as handed to it.
        seed: of starts and resamples.
        resamples: of the fits below the cuts.
        starts: of the fits below the cuts.
        rolled: the law's record below the cuts of what was not held out; None: it is measured.

    Raises:
        InvalidInputError: an expression or a column does not fit the table.
    """
    if len(fitted.draws) < 2:
        return fitted
    began = time.perf_counter()
    column = fitted.objective_column
    usable, _ = complete_runs(fitted.law, usable_runs(frame, column)[0])
    held = mask(usable, holdout or "false", where="--holdout")
    train, test = usable.filter(~held), usable.filter(held)
    rolled = rolled or roll(
        [fitted.law], train, objective=column, cluster=cluster, resamples=resamples, starts=starts, seed=seed
    )
    widening = learn(rolled.of(fitted.law.name), freedom=fitted.freedom, levels=edges(train))
    widened = replace(fitted, widening=replace(widening, seconds=time.perf_counter() - began))
    if fitted.holdout is None:
        return widened
    observed = test[column].cast(pl.Float64).to_numpy()
    return replace(widened, holdout=score(widened.predict(test, seed=seed), observed))


def learn(errors: Sequence[CutErrors], *, freedom: float, levels: Mapping[str, float]) -> Widening:
    """Return the widening after these cuts of one law.

    Args:
        errors: one a cut; none keeps the prior.
        freedom: of the fit that is to be widened.
        levels: that its predictions extrapolate from, by column.
    """
    log_posterior = -0.5 * (np.log(GRID / PRIOR_MEDIAN) / PRIOR_SPREAD) ** 2
    for cut in errors:
        log_posterior = log_posterior + CUT_WEIGHT * _log_likelihood(cut)
    posterior = np.exp(log_posterior - log_posterior.max())
    cumulative = np.cumsum(posterior) / posterior.sum()
    tau = np.interp((np.arange(VALUES) + 0.5) / VALUES, cumulative, GRID)
    return Widening(freedom, dict(levels), tuple(map(float, tau)), len(errors), 0.0)


def _log_likelihood(cut: CutErrors) -> Array:
    """Of the errors above a cut, at each tau of the grid, up to a constant.

    V, the covariance without tau, differs from noise by as many directions as there are resamples, and the error of the
    form adds one a column: nothing of the size of (held out)² is ever made.
    """
    deviations = cut.deviations[:, np.isfinite(cut.deviations).all(axis=0)]
    deviations = deviations - deviations.mean(axis=1, keepdims=True)
    variance = max(float(np.mean(cut.noise**2)), LEAST_VARIANCE)
    draws = deviations.shape[1]
    inner = deviations.T @ deviations + max(draws - 1, 1) * variance * np.eye(draws)
    far = cut.beyond**POWER  # (columns, held out)
    solved = (far - (np.linalg.solve(inner, deviations.T @ far.T).T @ deviations.T)) / variance  # far V^-1
    size, directions = np.linalg.eigh(solved @ far.T)
    along = directions.T @ (solved @ cut.error)
    inflation = 1 + np.outer(GRID**2, np.maximum(size, 0.0))
    likelihood: Array = 0.5 * (np.outer(GRID**2, along**2) / inflation - np.log(inflation)).sum(axis=1)
    return likelihood
