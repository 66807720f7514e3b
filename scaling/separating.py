"""The run that would separate parameters which a table leaves together.

Candidates are the table's typical run with one variable of the law moved fourfold, which a lab can train and the law
still describes. The best one adds most information along the directions that the runs leave open. Its variables are
the law's own (``N``, ``D``, ``G``), in the units of its convention.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from moe_search.scaling.identifiability import SeparatingRun, Unidentifiable
from moe_search.scaling.law import Array, Law, Variables

FACTOR = 4.0
SHARES = ("A",)
"""Activation ratios: at most 1. Other ratios (granularity, expansion, repetition) are at least 1."""
MOST_RUNS = 16
"""Copies of a run beyond which it is no advice."""


def with_separating_runs(
    law: Law,
    groups: tuple[Unidentifiable, ...],
    *,
    theta: Array,
    x: Variables,
    information: Array,
    dispersion: float,
) -> tuple[Unidentifiable, ...]:
    """Return the groups, each with the run that would separate it where there is one.

    Args:
        law: the law.
        groups: what the runs leave together.
        theta: (parameters,), where the law is linearised.
        x: variables of the runs.
        information: (parameters, parameters), JᵀWJ over the residual variance, in internal units.
        dispersion: the residual variance.
    """
    if not groups:
        return groups
    spread = np.array([p.spread for p in law.parameters])
    values, vectors = np.linalg.eigh(information * np.outer(spread, spread))
    candidates = list(_candidates(x))
    stacked = {name: np.stack([run[name] for _, run in candidates]) for name in x}
    with np.errstate(all="ignore"):
        _, jacobian = law.log_loss_and_jacobian(theta[None, :], stacked)
    gain = np.nan_to_num(jacobian[0].T * spread / math.sqrt(dispersion), posinf=0.0, neginf=0.0)
    found = []
    for group in groups:
        own = np.array([name in group.parameters for name in law.names])
        weak = [v for value, v in zip(values, vectors.T, strict=True) if value < 1 and (v[own] ** 2).sum() > 0.5]
        information_gain = sum((np.square(gain @ v) for v in weak), np.zeros(len(candidates)))
        best = int(np.argmax(information_gain))
        needed = math.ceil(1 / information_gain[best]) if information_gain[best] > 1 / MOST_RUNS else 0
        if not needed:
            found.append(group)
            continue
        moved, run = candidates[best]
        plain = {name: value.tolist() for name, value in run.items()}
        found.append(replace(group, separating_run=SeparatingRun(moved, plain, needed)))
    return tuple(found)


def _candidates(x: Variables) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the variable that is moved, and the run: scalars () and vectors (k,)."""
    typical = {
        name: np.exp(np.median(np.log(values))) if _positive(values) else np.median(values, axis=0)
        for name, values in x.items()
    }
    typical = {name: np.asarray(value, dtype=np.float64) for name, value in typical.items()}
    for name, value in typical.items():
        for factor in (FACTOR, 1 / FACTOR):
            if value.ndim == 0:
                moved = value * factor
                crosses = value < 1 < moved or moved < 1 < value  # of ratios: granularity and expansion stay above 1
                if value > 0 and not crosses and (value != 1 or (moved < 1) == (name in SHARES)):
                    yield name, {**typical, name: np.asarray(moved)}
                continue
            mixture = math.isclose(value.sum(), 1.0, rel_tol=0.2)
            for place in np.flatnonzero(value > 0):
                vector = value.copy()
                vector[place] *= factor
                yield f"{name}[{place}]", {**typical, name: vector / vector.sum() if mixture else vector}


def _positive(values: Array) -> bool:
    return values.ndim == 1 and bool((values > 0).all())
