"""How long a proxy takes: a model of the achieved FLOP/s, fitted to measured runs where there are any.

    seconds = FLOPs / speed,   ln speed = c · (1, ln FLOPs a token, ln layers, ln(1 + experts), ln batch tokens)

Small models, many experts and small batches run slower than their FLOPs say. The coefficients are least squares, held
to a constant speed by a weak prior, so that two runs already give the right level and forty the slopes.
"""

import math
from typing import Final

import numpy as np
import polars as pl
from pydantic import Field

from moe_search.scaling.law import Array
from moe_search.spaces.frozen import Frozen

DEFAULT_SPEED: Final = 1.5e10
"""FLOP/s assumed before any run: a small float32 model on one CPU core."""
DEFAULT_LOG_SD: Final = 0.7
"""The default may be wrong by a factor of two."""
REFERENCE: Final = (math.log(1e7), math.log(4), math.log(17), math.log(8192))
"""ln of FLOPs a token, layers, 1 + experts and batch tokens at which the default speed holds."""
SLOPE_SD: Final = 0.3
LEAST_LOG_SD: Final = 0.05
"""Timing noise of a shared machine."""


class Seconds(Frozen):
    """A predicted duration."""

    mean: float
    low95: float
    high95: float


class CostModel(Frozen):
    """A posterior over the coefficients of ln speed; without runs it is the documented default."""

    coefficients: tuple[float, ...] = (math.log(DEFAULT_SPEED), 0.0, 0.0, 0.0, 0.0)
    covariance: tuple[tuple[float, ...], ...] = Field(
        default=tuple(
            tuple((DEFAULT_LOG_SD if i == 0 else SLOPE_SD) ** 2 if i == j else 0.0 for j in range(5)) for i in range(5)
        )
    )
    log_sd: float = LEAST_LOG_SD
    """Standard deviation of ln speed around the model."""
    n_runs: int = 0
    device: str = ""
    """The device of the runs it was fitted to; durations are in seconds of that device."""

    def seconds(
        self, flops: float, *, flops_per_token: float, n_layers: float, n_experts: float, batch_tokens: float
    ) -> Seconds:
        """Return how long ``flops`` training FLOPs take.

        Args:
            flops: forward and backward FLOPs in all.
            flops_per_token: forward and backward FLOPs a token.
            n_layers: layers.
            n_experts: routed experts a layer; 0 for a dense model.
            batch_tokens: tokens a step.
        """
        row = _features(*(np.array([value]) for value in (flops_per_token, n_layers, n_experts, batch_tokens)))[0]
        middle = math.log(flops) - float(row @ np.array(self.coefficients))
        spread = 1.96 * math.sqrt(float(row @ np.array(self.covariance) @ row) + self.log_sd**2)
        return Seconds(mean=math.exp(middle), low95=math.exp(middle - spread), high95=math.exp(middle + spread))


def _features(flops_per_token: Array, n_layers: Array, n_experts: Array, batch_tokens: Array) -> Array:
    """(rows, 5)."""
    logs = np.log(np.stack([flops_per_token, n_layers, 1 + n_experts, batch_tokens]).astype(float))
    return np.column_stack([np.ones(logs.shape[1]), *(logs - np.array(REFERENCE)[:, None])])


def fit_cost(frame: pl.DataFrame, *, device: str | None = None) -> CostModel:
    """Fit the speed to the measured runs of ``frame``; without any, return the default.

    All horizons of a trial are one measurement, FLOPs paid over wall-clock seconds, so that it does not matter to which
    of them the shared trunk is booked, and evaluation and set-up are part of the duration.

    Args:
        frame: a runs table.
        device: whose runs count; None: the device with the most.
    """
    needed = {"wall_seconds", "paid_flops", "train_flops", "tokens", "n_layers", "n_experts", "batch_tokens"}
    if not needed <= set(frame.columns):
        return CostModel()
    runs = frame.filter((pl.col("wall_seconds") > 0) & (pl.col("paid_flops") > 0))
    if "device" in runs.columns and not runs.is_empty():
        device = device if device is not None else runs["device"].mode().sort()[0]
        runs = runs.filter(pl.col("device") == device)
    if runs.is_empty():
        return CostModel()
    unit = pl.col("run_key") if "run_key" in runs.columns else pl.int_range(pl.len()).cast(pl.String)
    if "trial" in runs.columns:
        unit = pl.coalesce(pl.col("trial").cast(pl.String), unit)
    measured = runs.group_by(unit.alias("unit"), maintain_order=True).agg(
        pl.col("wall_seconds", "paid_flops").sum(),
        (pl.col("train_flops") / pl.col("tokens")).last().alias("flops_per_token"),
        pl.col("n_layers", "n_experts", "batch_tokens").last(),
    )
    speed = np.log((measured["paid_flops"] / measured["wall_seconds"]).to_numpy())
    columns = ("flops_per_token", "n_layers", "n_experts", "batch_tokens")
    features = _features(*(measured[name].cast(pl.Float64).to_numpy() for name in columns))
    prior = np.array([math.log(DEFAULT_SPEED), 0, 0, 0, 0])
    precision = np.array([3.0, *[SLOPE_SD] * 4]) ** -2
    log_sd = 0.2
    for _ in range(5):
        inverse = features.T @ features / log_sd**2 + np.diag(precision)
        mean = np.linalg.solve(inverse, features.T @ speed / log_sd**2 + precision * prior)
        freedom = max(len(speed) - np.trace(np.linalg.solve(inverse, features.T @ features / log_sd**2)), 1.0)
        log_sd = max(math.sqrt(float(((speed - features @ mean) ** 2).sum()) / freedom), LEAST_LOG_SD)
    covariance = np.linalg.inv(features.T @ features / log_sd**2 + np.diag(precision))
    return CostModel(
        coefficients=tuple(map(float, mean)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        log_sd=log_sd,
        n_runs=measured.height,
        device=device or "",
    )
