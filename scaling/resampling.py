"""How far the parameters could have come out elsewhere: refits of resampled tables, all in one batch.

Three kinds. *Pairs* draws whole units (runs, or clusters of runs) with replacement; it assumes nothing about the
noise, but a table of few points loses in many draws what determines a parameter. *Wild* keeps every run where it is
and flips the residuals of whole units (Wu 1986; Cameron, Gelbach and Miller 2008); it assumes noise that is symmetric.
*Residual* deals the residuals out anew; it assumes that all runs are equally noisy.

Residuals are corrected before the last two use them, because a fit is closer to its own runs than the law is: each is
moved away by what the fit would lose without its run (Feng, He and Hu 2011, with the leverage of the run left out).

Simulated tables (``tests/scaling/test_resampling.py``) decide what is taken where nothing is asked for.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from moe_search.scaling.expressions import evaluate
from moe_search.scaling.law import Array
from moe_search.scaling.optimum import Optimum, mean_slope
from moe_search.scaling.problem import Problem
from moe_search.scaling.solver import Solution
from moe_search.spaces.errors import InvalidInputError

Kind = Literal["pairs", "wild", "residual"]
KINDS: tuple[Kind, ...] = ("pairs", "wild", "residual")
Units = npt.NDArray[np.intp]
"""(runs,): the number of the resampling unit that each run belongs to, from 0."""

WEBB = np.sqrt(np.array([0.5, 1.0, 1.5]))
"""Sizes of six-point weights (Webb 2023): with few units, two signs give too few different tables."""
LARGEST_LEVERAGE = 0.9
"""Of a run that alone determines a parameter: its own residual then says nothing."""
FEW_FOR_SIGNS = 12
"""Units below which six-point weights replace signs: 2^12 tables are more than are drawn."""


@dataclass(frozen=True)
class Chosen:
    """The kind of resampling that was used, and why."""

    kind: Kind
    reason: str


def resampling_units(train: pl.DataFrame, cluster: str | None) -> Units:
    """Return the number of the resampling unit of each run (runs,).

    Args:
        train: the runs.
        cluster: a Polars SQL expression with one value a unit; None: every run is a unit.
    """
    if cluster is None:
        return np.arange(train.height)
    units = evaluate(train, cluster, where="--cluster").cast(pl.String).fill_null("")
    return np.unique(units.to_numpy(), return_inverse=True)[1]


def choose_kind(wanted: Literal["auto"] | Kind) -> Chosen:
    """Return ``wanted``, or for ``auto`` the kind whose intervals hold most often what they should: pairs."""
    if wanted == "auto":
        return Chosen("pairs", "assumes nothing about the noise, and covers at least as often as wild and residual")
    return Chosen(wanted, "asked for")


@dataclass(frozen=True)
class Resamples:
    """What differs between the tables that are refitted."""

    count: int
    center: Array
    """(resamples, parameters) or (1, parameters): of the prior."""
    weights: Array | None = None
    """(resamples, runs); None: 1."""
    log_y: Array | None = None
    """(resamples, runs): other observations; None: those of the table."""


def resample(
    problem: Problem, optimum: Optimum, units: Units, kind: Kind, *, resamples: int, rng: np.random.Generator
) -> Array:
    """Refit all resamples at once, each from the optimum (resamples, parameters)."""
    if resamples == 0:
        return optimum.theta[None, :]
    return refit(problem, optimum, draw(problem, optimum, units, kind, resamples=resamples, rng=rng)).theta


def draw(
    problem: Problem, optimum: Optimum, units: Units, kind: Kind, *, resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draw the tables.

    Where the prior takes part its centre is resampled too: otherwise what only the prior says would look certain.
    """
    weights, log_y = None, None
    match kind:
        case "pairs":
            count = int(units.max()) + 1
            weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)[:, units]
        case "wild":
            signs = _signs(int(units.max()) + 1, resamples, rng)[:, units]
            log_y = _moved(problem, optimum, signs * corrected_residuals(problem, optimum))
        case "residual":
            if len(np.unique(units)) < problem.runs:
                raise InvalidInputError(
                    "residuals are dealt out run by run, so that clusters would lose what their runs share",
                    where="--resampling",
                    fix="wild",
                )
            pool = corrected_residuals(problem, optimum)[problem.observed]
            log_y = _moved(problem, optimum, rng.choice(pool, size=(resamples, problem.runs)))
    center = problem.center[None, :]
    if optimum.precision.any():
        scatter = np.sqrt(optimum.dispersion / optimum.precision)
        center = center + scatter * rng.normal(size=(resamples, len(scatter)))
    return Resamples(resamples, center, weights, log_y)


def refit(problem: Problem, optimum: Optimum, resamples: Resamples) -> Solution:
    """Refit all resamples at once, each from the optimum."""
    return problem.solve(
        np.tile(optimum.theta, (resamples.count, 1)),
        curvature="polish",
        precision=optimum.precision,
        weights=resamples.weights,
        center=resamples.center,
        log_y=resamples.log_y,
        max_iterations=60,
        tolerance=1e-7,
    )


def corrected_residuals(problem: Problem, optimum: Optimum) -> Array:
    """Residuals (runs,) at the optimum, each moved outwards by its run's influence on its own prediction.

    To first order that is h/(1-h) ψ(r)/s, with the leverage h, the derivative ψ of the Huber loss and its mean slope s.
    """
    residual, delta = optimum.residual, problem.delta
    slope = mean_slope(residual[problem.observed], delta)
    rows = problem.basis.T @ np.where(optimum.informative, optimum.jacobian, 0.0)
    information = rows @ rows.T
    prior = (problem.basis.T * optimum.precision) @ problem.basis / slope
    ridge = 1e-12 * np.trace(information) * np.eye(len(information))
    leverage = np.einsum("pn,pn->n", rows, np.linalg.solve(information + prior + ridge, rows))
    leverage = np.clip(leverage, 0.0, LARGEST_LEVERAGE)
    corrected: Array = residual + leverage / (1 - leverage) * np.clip(residual, -delta, delta) / slope
    return corrected


def _moved(problem: Problem, optimum: Optimum, residual: Array) -> Array:
    """Observations (resamples, runs) that have these residuals at the optimum; bounds stay."""
    return np.where(problem.observed, problem.log_y + optimum.residual - residual, problem.log_y)


def _signs(units: int, resamples: int, rng: np.random.Generator) -> Array:
    """Weights (resamples, units) of mean 0 and variance 1, symmetric."""
    signs = rng.choice([-1.0, 1.0], size=(resamples, units))
    return signs if units >= FEW_FOR_SIGNS else signs * rng.choice(WEBB, size=signs.shape)
