"""Learn from rolling cuts how much wider a law's predictions have to be: its record, not its claim.

The errors above a cut are taken as normal, with the covariance of the resamples below it, plus noise, plus what b, the
error of the form (:mod:`~moe_search.scaling.widening`), adds at their reach. b drifts from a cut to the next one, and
from the last one to the predictions:

    b' = rho b + sqrt(1 - rho²) tau e,   e ~ Normal(0, 1) a column

so that a sign that the record kept is expected to go on, and the latest cuts, which are nearest to the fit, tell most.
A Kalman filter over the cuts gives what is known of b at each tau, and how probable tau is. Its prior is log-normal: a
table without cuts keeps it, because extrapolation is not free of doubt where nobody could look.

rho and the prior were set on simulated worlds with every law of the library as the truth, such that intervals cover at
ten times the compute whether or not the fitted law is the true one. On others, 20 of each of 24 truths with ladders of
30 to 300 runs (``benchmarks/coverage.py``, results/20261130T2323-coverage.json), 95 % intervals hold, in percent of new
runs:

    fitted law                          inside    at ten times the compute (without widening)
    the true one (20 laws)                95        97 (95)    the worst: farseer 86
    another law than the true one (7)     96        95 (82)    the worst, bent worlds with them: joint 91
    any law, in a bent world (4 forms)    95        94 (72)    the worst: kaplan bent, fitted by itself 87

The widths are 6.3, 6.4 and 5.0 times the mean error at ten times the compute; 4.9 would do for normal errors of known
size. With errors of either sign, kaplan bent was held in 67, and as a wrong law in 81.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from moe_search.scaling.expressions import mask
from moe_search.scaling.extrapolation import Edge, edges
from moe_search.scaling.fit import complete_runs, usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.holdout import score
from moe_search.scaling.law import Array
from moe_search.scaling.rolling import RESAMPLES, STARTS, CutErrors, Rolling, roll
from moe_search.scaling.widening import Widening

PRIOR_MEDIAN, PRIOR_SPREAD = 0.0015, 1.5
"""Of tau, in log loss at a reach of 1, and of its logarithm."""
LASTING = 0.8
"""Correlation of b at a cut with b at the next one, and of the last one with that of the predictions."""
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


def learn(
    errors: Sequence[CutErrors],
    *,
    freedom: float,
    levels: Mapping[str, Edge],
    grid: Array = GRID,
    values: int = VALUES,
) -> Widening:
    """Return the widening after these cuts of one law.

    Args:
        errors: one a cut, the lowest cut first; none keeps the prior.
        freedom: of the fit that is to be widened.
        levels: the ends of its runs, by column.
        grid: of tau, ascending in equal ratios.
        values: of tau that are kept.
    """
    log_posterior = -0.5 * (np.log(grid / PRIOR_MEDIAN) / PRIOR_SPREAD) ** 2
    one = np.eye(len(levels))
    prior = grid[:, None, None] ** 2 * one
    mean, covariance = np.zeros((len(grid), len(levels))), prior
    for cut in errors:
        precision, information = _told_by(cut, tuple(levels))
        shrunk = np.linalg.inv(one + covariance @ precision)
        surprise = information - mean @ precision
        covariance = shrunk @ covariance
        step = np.einsum("tij,tj->ti", covariance, surprise)
        evidence = mean @ information - 0.5 * np.einsum("ti,ij,tj->t", mean, precision, mean)
        evidence += 0.5 * (np.einsum("ti,ti->t", surprise, step) + np.linalg.slogdet(shrunk)[1])
        log_posterior = log_posterior + evidence
        mean = LASTING * (mean + step)
        covariance = LASTING**2 * covariance + (1 - LASTING**2) * prior
    posterior = np.exp(log_posterior - log_posterior.max())
    cumulative = np.cumsum(posterior) / posterior.sum()
    nearest = np.minimum(np.searchsorted(cumulative, (np.arange(values) + 0.5) / values), len(grid) - 1)
    root = np.linalg.cholesky(0.5 * (covariance + covariance.swapaxes(1, 2)) + LEAST_VARIANCE * prior)[nearest]
    return Widening(
        freedom=freedom,
        edges=dict(levels),
        tau=tuple(map(float, grid[nearest])),
        expected=tuple(map(tuple, mean[nearest].tolist())),
        root=tuple(tuple(map(tuple, triangle)) for triangle in root.tolist()),
        cuts=len(errors),
        seconds=0.0,
    )


def _told_by(cut: CutErrors, columns: Sequence[str]) -> tuple[Array, Array]:
    """Return what the errors above a cut say of b: P (columns, columns) and s (columns,) of exp(s b - b P b / 2).

    V, the covariance without b, differs from noise by as many directions as there are resamples, so that nothing of the
    size of (held out)² is ever made.
    """
    deviations = cut.deviations[:, np.isfinite(cut.deviations).all(axis=0)]
    deviations = deviations - deviations.mean(axis=1, keepdims=True)
    variance = max(float(np.mean(cut.noise**2)), LEAST_VARIANCE)
    draws = deviations.shape[1]
    inner = deviations.T @ deviations + max(draws - 1, 1) * variance * np.eye(draws)
    known = dict(zip(cut.columns, cut.reach, strict=True))
    far = np.array([known.get(name, np.zeros(len(cut.error))) for name in columns]).reshape(-1, len(cut.error))
    solved = (far - (np.linalg.solve(inner, deviations.T @ far.T).T @ deviations.T)) / variance  # far V^-1
    return solved @ far.T, solved @ cut.error
