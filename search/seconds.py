"""Device-seconds of a trial, learned from the trials that have ended.

    ln seconds = ln table + c · (1, ln FLOPs a token, ln parameters, ln(1 + experts), ln top-k) + device + noise

with all logarithms from their means over the measured trials. Before any of them c is zero: the machine's table of
measured shapes holds, where there is one (:mod:`moe_search.search.price`), as a prior of a third. Without a table a
FLOP costs what it does on average, and the slopes have the wider prior. A slow hour of the machine is an outlier and
counts less (Huber). Accounts are in what was measured; these predictions are for decisions, and stand beside them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moe_search.search.law_mean import Array
from moe_search.search.problem import Problem
from moe_search.search.trial import Row
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.run import Run

LEVEL_SD, SLOPE_SD = 0.3, 0.1
"""Prior of the level and of each slope beside the machine's own table."""
UNKNOWN_LEVEL_SD, UNKNOWN_SLOPE_SD = 10.0, 0.3
"""The same without one."""
DEVICE_SD = 1.5
"""Of the logarithm of a device's speed, among the devices of one campaign."""
LEAST_LOG_SD = 0.03
OUTLYING = 2.0
"""Standard deviations beyond which a trial counts less."""
ROUNDS = 6
N_SHAPE = 4


class SecondsModel(NamedTuple):
    """The posterior mean of the logarithms, for the device that most trials were measured on."""

    problem: Problem
    centre: Array
    """Means of the shapes' logarithms ``(4,)``."""
    coefficients: Array
    """c, and the device's share in its first entry ``(5,)``."""
    log_sd: float
    """Scatter of measured trials around it."""
    n_trials: int
    """Measured."""
    device: str

    def seconds(self, design: Design, scale: Scale) -> float:
        """Return the device-seconds of a trial's training steps."""
        shape = _shape(self.problem, design, scale) - self.centre
        correction = self.coefficients[0] + float(shape @ self.coefficients[1:])
        return _prior(self.problem, design, scale) * math.exp(correction)


def fit_seconds(problem: Problem, rows: Sequence[Row]) -> SecondsModel | None:
    """Return the model of measured trials and the machine's table; None where there is neither.

    Args:
        problem: has the table, if there is one.
        rows: trials; those without a measured time are passed over.
    """
    measured = [(row, found) for row in rows if (found := _measured(row)) is not None]
    if not measured:
        if problem.price is None:
            return None
        return SecondsModel(problem, np.zeros(N_SHAPE), np.zeros(1 + N_SHAPE), LEAST_LOG_SD, 0, "")
    shapes = np.array([_shape(problem, row.trial.design, row.trial.scale) for row, _ in measured])
    counts = Counter(found.device for _, found in measured)
    devices = sorted(counts, key=lambda name: (-counts[name], name))
    centre = shapes.mean(axis=0)
    is_on = np.array([[found.device == name for name in devices] for _, found in measured], dtype=np.float64)
    x = np.column_stack([np.ones(len(shapes)), shapes - centre, is_on])
    y = np.log(
        [
            found.seconds_a_flop
            * problem.cost(row.trial.design, row.trial.scale)
            / _prior(problem, row.trial.design, row.trial.scale)
            for row, found in measured
        ]
    )
    level, slope = (UNKNOWN_LEVEL_SD, UNKNOWN_SLOPE_SD) if problem.price is None else (LEVEL_SD, SLOPE_SD)
    several = len(devices) > 1
    precision = np.array([level, *[slope] * N_SHAPE, *[DEVICE_SD if several else 1e-6] * len(devices)]) ** -2.0
    weight, log_sd = np.ones(len(y)), 0.2
    for _ in range(ROUNDS):
        inverse = (x.T * weight) @ x / log_sd**2 + np.diag(precision)
        mean = np.linalg.solve(inverse, x.T @ (weight * y) / log_sd**2)
        error = y - x @ mean
        log_sd = max(1.4826 * float(np.median(np.abs(error))), LEAST_LOG_SD)
        weight = np.minimum(1.0, OUTLYING * log_sd / np.maximum(np.abs(error), 1e-12))
    coefficients = mean[: 1 + N_SHAPE].copy()
    coefficients[0] += mean[1 + N_SHAPE]
    return SecondsModel(problem, centre, coefficients, log_sd, len(measured), devices[0])


class _Measured(NamedTuple):
    seconds_a_flop: float
    device: str


def _measured(row: Row) -> _Measured | None:
    """Return the speed of a trial: of its steps where that was measured, else with evaluation and set-up."""
    if not row.runs or row.runs[-1].status != "finished":
        return None
    last: Run = row.runs[-1]
    if last.tokens_per_second:
        return _Measured(last.tokens / last.train_flops / last.tokens_per_second, last.device)
    seconds = [run.wall_seconds for run in row.runs]
    paid = sum(run.paid_flops for run in row.runs)
    if paid <= 0 or not all(seconds):
        return None
    return _Measured(sum(filter(None, seconds)) / paid, last.device)


def _shape(problem: Problem, design: Design, scale: Scale) -> Array:
    """Return the logarithms of FLOPs a token, parameters, 1 + experts and top-k ``(4,)``."""
    resolved = problem.resolved(design, scale)
    moe = resolved.architecture.moe_layers
    top_k = max(float(np.mean([ffn.top_k for ffn in moe])), 1.0) if moe else 1.0
    flops = flops_per_token(resolved.architecture).train
    return np.log(
        np.array([flops, resolved.realised.n_total, 1 + resolved.realised.n_experts, top_k], dtype=np.float64)
    )


def _prior(problem: Problem, design: Design, scale: Scale) -> float:
    """Return the seconds by the machine's table; without one the FLOPs, of which the level makes seconds."""
    by_table = problem.seconds(design, scale)
    return problem.cost(design, scale) if by_table is None else by_table
