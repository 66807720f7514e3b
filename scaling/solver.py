"""Robust least squares for many problems at once: all starts, or all resamples, in one batched damped Newton method.

Each problem b of a batch minimises, over theta in a box,

    Σ_i w_bi huber_δ(r_bi) + ½ Σ_j p_j (theta_bj - mean_bj)²,     r_bi = log L(theta_b, x_i) - log y_i

*summed*, not averaged: an averaged objective meets the stopping tolerance of common optimisers before the optimum,
which moved the published Chinchilla coefficients. Two curvatures of the Huber loss are used. ``explore`` weighs a
residual by min(1, (δ/r)²), which is smooth and finds the basin from far away; ``polish`` is Newton's (1 inside δ, 0
outside), which ends quadratically. Both are damped by the diagonal of the usual reweighted matrix (Marquardt) and
accept descent only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from moe_search.scaling.law import Array

Index = npt.NDArray[np.intp]

Evaluate = Callable[[Array, Index], tuple[Array, Array]]
"""theta (rows, parameters) of these problems of the batch to residuals (rows, runs) and their Jacobian
(rows, parameters, runs). A residual that has no influence (of a bound that is kept) is zero with its derivatives."""

LARGEST_STEP = 4.0
"""In internal units: a factor of 55 for a positive parameter."""
LARGEST_DAMPING = 1e9
SETTLED = 2
"""Iterations without progress after which a problem is done."""


@dataclass(frozen=True)
class Solution:
    """Where each problem ended."""

    theta: Array
    """(batch, parameters)."""
    objective: Array
    """(batch,)."""
    gradient_norm: Array
    """(batch,): of the objective, over the parameters that are not at a bound."""

    def best(self, count: int) -> Self:
        """Return the ``count`` problems with the least objectives, as they come."""
        chosen = np.sort(np.argsort(self.objective, kind="stable")[:count])
        return replace(
            self,
            theta=self.theta[chosen],
            objective=self.objective[chosen],
            gradient_norm=self.gradient_norm[chosen],
        )


def huber(residual: Array, delta: float) -> Array:
    """Return ½ r² inside ``delta`` and δ (|r| - ½ δ) outside."""
    size = np.abs(residual)
    inside = np.minimum(size, delta)
    loss: Array = inside * (size - 0.5 * inside)
    return loss


def minimise(
    evaluate: Evaluate,
    start: Array,
    *,
    weights: Array,
    delta: float,
    lower: Array,
    upper: Array,
    basis: Array,
    mean: Array,
    precision: Array,
    curvature: Literal["explore", "polish"],
    max_iterations: int = 200,
    tolerance: float = 1e-10,
) -> Solution:
    """Minimise a batch of problems.

    Args:
        evaluate: residuals and Jacobian.
        start: (batch, parameters), inside the box.
        weights: (batch, runs) or (1, runs), non-negative.
        delta: where the Huber loss turns linear, in log loss.
        lower: (batch, parameters) or (1, parameters); a parameter whose bounds are equal is held there.
        upper: likewise.
        basis: (parameters, parameters); steps are computed in u with theta = basis u, which decorrelates them.
        mean: (batch, parameters) or (1, parameters): the prior's centre.
        precision: (parameters,): the prior's precision in units of the objective; 0 for none.
        curvature: see the module.
        max_iterations: at most.
        tolerance: relative decrease below which a step is no progress.
    """
    theta = np.clip(start, lower, upper)
    batch, parameters = theta.shape
    objective, gradient_norm = np.empty(batch), np.empty(batch)
    diagonal = np.arange(parameters)

    def value(residual: Array, at: Array, rows: Index) -> Array:
        penalty = 0.5 * ((at - _rows(mean, rows)) ** 2 @ precision)
        total = (_rows(weights, rows) * huber(residual, delta)).sum(axis=1) + penalty
        return np.where(np.isfinite(total), total, np.inf)

    active: Index = np.arange(batch)
    residual, jacobian = _finite(*evaluate(theta, active))
    objective[:] = value(residual, theta, active)
    damping, quiet = np.full(batch, 1e-2), np.zeros(batch, dtype=int)
    for _ in range(max_iterations):
        w, at = _rows(weights, active), theta[active]
        size = np.abs(residual)
        reweighted = delta / np.maximum(size, delta)
        second = reweighted**2 if curvature == "explore" else (size <= delta).astype(float)
        gradient = np.matmul(jacobian, (w * np.clip(residual, -delta, delta))[:, :, None])[:, :, 0]
        gradient += precision * (at - _rows(mean, active))
        low, high = _rows(lower, active), _rows(upper, active)
        held = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0)) | (low == high)
        gradient_norm[active] = np.linalg.norm(np.where(held, 0.0, gradient), axis=1)

        transformed = np.matmul(basis.T, jacobian)
        hessian = np.matmul(transformed * (w * second)[:, None, :], transformed.transpose(0, 2, 1))
        scale = np.matmul(transformed**2, (w * reweighted)[:, :, None])[:, :, 0]
        hessian += (basis.T * precision) @ basis
        scale += precision @ basis**2
        hessian[:, diagonal, diagonal] += (
            damping[active, None] * scale + 1e-9 * scale.max(axis=1, keepdims=True) + 1e-300
        )
        slope = np.where(held, 0.0, gradient) @ basis
        hessian = np.where(held[:, :, None] | held[:, None, :], np.eye(parameters), hessian)
        step = -np.linalg.solve(hessian, np.where(held, 0.0, slope)[:, :, None])[:, :, 0] @ basis.T
        trial = np.clip(at + np.clip(step, -LARGEST_STEP, LARGEST_STEP), low, high)

        new_residual, new_jacobian = _finite(*evaluate(trial, active))
        new = value(new_residual, trial, active)
        old = objective[active]
        better = new < old
        moved = active[better]
        theta[moved], objective[moved] = trial[better], new[better]
        residual[better], jacobian[better] = new_residual[better], new_jacobian[better]
        progress = better & (new < (1 - tolerance) * old)
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 4)
        exhausted = damping[active] > LARGEST_DAMPING
        quiet[active] = np.where(progress, 0, np.where(better, quiet[active] + 1, quiet[active]))
        going = (quiet[active] < SETTLED) & ~exhausted
        if not going.all():
            active, residual, jacobian = active[going], residual[going], jacobian[going]
            if not len(active):
                break
    return Solution(theta, objective, gradient_norm)


def _rows(values: Array, rows: Index) -> Array:
    """The rows of a batch, or the one row that all problems share."""
    return values if len(values) == 1 else values[rows]


def _finite(residual: Array, jacobian: Array) -> tuple[Array, Array]:
    """Far starts overflow: their residuals become infinite, which no step is accepted into, and their slopes zero."""
    if np.isfinite(jacobian).all():
        return residual, jacobian
    return residual, np.nan_to_num(jacobian, nan=0.0, posinf=0.0, neginf=0.0)
