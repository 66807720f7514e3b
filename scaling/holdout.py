"""How well a fit predicts runs that it has not seen."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_search.scaling.law import Array
from moe_search.scaling.prediction import Prediction
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class Holdout:
    """Errors in percent of the observed loss, and the share of observations inside the intervals."""

    mape: float
    """Mean absolute error, percent."""
    bias: float
    """Mean signed error, percent; positive where the law predicts too high a loss."""
    coverage_80: float
    coverage_95: float
    predictions: tuple[dict[str, float], ...]
    """One a run: observed, predicted, low_80, high_80, low_95, high_95."""


def score(prediction: Prediction, observed: Array) -> Holdout:
    """Compare predictions with ``observed`` losses (rows,)."""
    error = 100 * (prediction.mean / observed - 1)
    columns = {"observed": observed, "predicted": prediction.mean}
    coverage = {}
    for level in (80, 95):
        low, high = prediction.interval(level / 100)
        columns |= {f"low_{level}": low, f"high_{level}": high}
        coverage[level] = float(((low <= observed) & (observed <= high)).mean())
    rows = zip(*columns.values(), strict=True)
    return Holdout(
        mape=float(np.abs(error).mean()),
        bias=float(error.mean()),
        coverage_80=coverage[80],
        coverage_95=coverage[95],
        predictions=tuple(dict(zip(columns, map(float, row), strict=True)) for row in rows),
    )


def largest_scale(frame: pl.DataFrame, *, factor: float = 2.0, fewest: int = 3) -> str:
    """Return the ``--holdout`` expression that sets the largest training compute of a table aside.

    Args:
        frame: the runs.
        factor: runs within this factor of the largest training FLOPs belong to the largest scale.
        fewest: runs that it must hold; the cut is lowered until it does.

    Raises:
        InvalidInputError: fewer than half of the runs would remain.
    """
    if "train_flops" not in frame.columns:
        raise InvalidInputError("there is no column 'train_flops' to find the largest scale by")
    flops = np.sort(frame["train_flops"].drop_nulls().cast(pl.Float64).to_numpy())
    if len(flops) < 2 * fewest:
        raise InvalidInputError(
            f"{len(flops)} runs are too few to hold out the largest scale", allowed=f"at least {2 * fewest} runs"
        )
    cut = float(min(flops[-1] / factor, np.nextafter(flops[-fewest], 0)))
    if (flops > cut).mean() > 0.5:
        raise InvalidInputError(
            "the largest scale holds more than half of the runs, so that too few smaller ones remain to fit",
            fix="runs at a smaller scale",
        )
    return f"train_flops > {cut!r}"
