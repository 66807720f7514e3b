"""One law fitted to two groups of runs, each on its own, with joint draws.

A draw of both fits comes from one resample of the whole table: a cluster that has runs in both groups, such as one data
order or one seed of the data, is drawn for both, so that what it does to both cancels in their difference.

Two designs trained alike on the same text end at the same irreducible loss; if that is assumed (``shared``), its
posterior is the product of both groups' (:mod:`moe_search.scaling.integrated`), and a draw has one value for both.
Runs that all stop at the same tokens do not end there: their limit holds what the tokens are missing, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from moe_search.scaling.expressions import mask
from moe_search.scaling.fit import STARTS, complete_runs, estimates, fit, objective_column, usable_runs
from moe_search.scaling.fitted import Estimate, Fit
from moe_search.scaling.integrated import Posterior, integrate, posterior_of, product, refit_at
from moe_search.scaling.law import Array, Law
from moe_search.scaling.optimum import Optimum, find_optimum
from moe_search.scaling.problem import Problem, build_problem
from moe_search.scaling.resampling import Chosen, Resamples, draw, refit, resampling_units
from moe_search.spaces.errors import InvalidInputError

DELTA: Final = 1e-3
"""Huber's, in log loss: that of :func:`~moe_search.scaling.fit.fit`."""


@dataclass(frozen=True)
class Group:
    """One group of runs and the law on them."""

    name: str
    """The condition that its runs meet."""
    fitted: Fit
    runs: pl.DataFrame


def fit_groups(
    law: Law,
    frame: pl.DataFrame,
    conditions: Sequence[str],
    *,
    objective: str | None = None,
    cluster: str | None = None,
    shared: bool = False,
    resamples: int = 1000,
    starts: int = STARTS,
    seed: int = 0,
) -> tuple[Group, ...]:
    """Fit ``law`` to the runs of each condition, and draw from all fits at once.

    Args:
        law: the law.
        frame: a runs table.
        conditions: Polars SQL expressions; no run meets two of them.
        objective: as in :func:`~moe_search.scaling.fit.fit`.
        cluster: the resampling unit; None: one run.
        shared: whether the parameter that the law integrates over has one value for all groups.
        resamples: of the whole table; 0 for none.
        starts: of each fit.
        seed: of starts and resamples.

    Raises:
        InvalidInputError: a group is empty or too small, groups share runs, or nothing is there to be shared.
    """
    if shared and law.integrated is None:
        raise InvalidInputError(
            f"the law {law.name} integrates over no parameter that groups could share",
            where="--law",
            fix=f"{law.name}:E=integrated",
        )
    column = objective_column(frame, objective)
    parts = []
    for part in _parts(usable_runs(frame, column)[0], conditions):
        fitted = fit(law, part, objective=column, resamples=0, censored=(), delta=DELTA, starts=starts, seed=seed)
        parts.append(_Part.of(fitted, complete_runs(fitted.law, part)[0], starts, seed))
    units = resampling_units(pl.concat([part.runs for part in parts], how="diagonal_relaxed"), cluster)
    count = int(units.max()) + 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, units].astype(np.float64)
    split = np.split(weights, np.cumsum([part.runs.height for part in parts])[:-1], axis=1)
    tables = [part.tables(weight, rng) for part, weight in zip(parts, split, strict=True)]
    fits = (
        _shared(parts, tables, rng)
        if shared
        else [_own(part, table, rng) for part, table in zip(parts, tables, strict=True)]
    )
    return tuple(Group(name, fitted, part.runs) for name, fitted, part in zip(conditions, fits, parts, strict=True))


@dataclass(frozen=True)
class _Part:
    """The fit of one group, and what is needed to fit it again."""

    fitted: Fit
    runs: pl.DataFrame
    problem: Problem
    optimum: Optimum

    @classmethod
    def of(cls, fitted: Fit, runs: pl.DataFrame, starts: int, seed: int) -> "_Part":
        problem = build_problem(fitted.law, runs, fitted.objective_column, runs, DELTA)
        return cls(fitted, runs, problem, find_optimum(problem, starts, np.random.default_rng(seed)))

    def tables(self, weights: Array, rng: np.random.Generator) -> Resamples:
        """Resampled tables with these weights (resamples, runs)."""
        drawn = draw(self.problem, self.optimum, np.arange(self.runs.height), "pairs", resamples=len(weights), rng=rng)
        return replace(drawn, weights=weights)

    def with_draws(self, theta: Array, draws: Array) -> Fit:
        """The fit at ``theta`` with these draws of it."""
        withheld = {name for group in self.optimum.unidentifiable for name in group.parameters}
        parameters, derived = estimates(self.fitted.law, theta, draws, withheld)
        return replace(
            self.fitted,
            theta=theta,
            draws=draws,
            parameters=parameters,
            derived=derived,
            resampling=Chosen("pairs", "all groups are drawn together"),
        )


def _parts(usable: pl.DataFrame, conditions: Sequence[str]) -> list[pl.DataFrame]:
    """The runs of each condition."""
    chosen = [mask(usable, condition, where="--compare") for condition in conditions]
    for condition, rows in zip(conditions, chosen, strict=True):
        if not rows.any():
            raise InvalidInputError(
                f"no run meets {condition!r}", where="--compare", allowed="a condition that runs meet"
            )
    twice = int((np.sum([rows.to_numpy() for rows in chosen], axis=0) > 1).sum())
    if twice:
        raise InvalidInputError(f"{twice} runs are in several groups, {' and '.join(conditions)}", where="--compare")
    return [usable.filter(rows) for rows in chosen]


def _own(part: _Part, tables: Resamples, rng: np.random.Generator) -> Fit:
    """The fit with draws of its own."""
    name, theta = part.fitted.law.integrated, part.optimum.theta
    if tables.count == 0:
        return part.with_draws(theta, theta[None, :])
    if name is None:
        return part.with_draws(theta, refit(part.problem, part.optimum, tables).theta)
    return part.with_draws(theta, integrate(part.problem, part.optimum, name, tables, rng))


def _shared(parts: Sequence[_Part], tables: Sequence[Resamples], rng: np.random.Generator) -> list[Fit]:
    """The fits at the most probable common value, and with one value in each draw."""
    name = parts[0].fitted.law.integrated
    assert name is not None, "only a parameter that is integrated over is shared"
    found = [posterior_of(part.problem, part.optimum, name) for part in parts]
    together = product(found)
    values = together.draw(tables[0].count, rng)
    return [
        _at(part, posterior, together.mode, values, table)
        for part, posterior, table in zip(parts, found, tables, strict=True)
    ]


def _at(part: _Part, posterior: Posterior, mode: float, values: Array, tables: Resamples) -> Fit:
    """The fit with the shared parameter at ``mode``, and at one of ``values`` (resamples,) in each draw."""
    name = part.fitted.law.integrated
    assert name is not None, "only a parameter that is integrated over is shared"
    itself = Resamples(1, part.problem.center[None, :])
    theta = refit_at(part.problem, part.optimum, name, posterior, np.array([mode]), tables=itself)[0]
    many = tables.count > 0
    draws = refit_at(part.problem, part.optimum, name, posterior, values, tables=tables) if many else theta[None, :]
    fitted = part.with_draws(theta, draws)
    # the value is known as well as all runs together know it, whatever one group alone leaves open
    return replace(fitted, parameters={**fitted.parameters, name: Estimate.of(mode, values)})
