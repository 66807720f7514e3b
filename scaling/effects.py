"""What mattered: the effect of each knob on the loss, beyond what size and tokens explain.

One Bayesian linear regression of log loss on a law's prediction (the scale part), size, tokens, and all knobs at once,
each standardised and held to zero by a weak prior: with many knobs and few runs, an effect that the runs do not show
stays near zero with a wide interval. A mixture weight grows at the expense of all other domains in proportion. The
table at hand is described; nothing is extrapolated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl

from moe_search.scaling.fit import fit
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError

NUMERIC: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "granularity": True,
        "activation_ratio": True,
        "n_shared_experts": False,
        "schedule_tilt": False,
        "schedule_bow": False,
        "schedule_wave": False,
    }
)
"""Knob to whether its logarithm enters."""
CATEGORICAL: Final = ("router", "balancing")
KNOB_SD: Final = 0.03
"""Weak prior: one standard deviation of a knob moves the loss by about 3 %."""
SCALE_SD: Final = 1.0


@dataclass(frozen=True)
class Effect:
    """Change of the loss, in percent, when one knob goes from ``start`` to ``end`` and all else stays."""

    knob: str
    start: float | str
    end: float | str
    percent: float
    low95: float
    high95: float
    """Negative means lower loss; an interval that holds 0 shows no effect."""


def effects(frame: pl.DataFrame, *, objective: str | None = None) -> tuple[Effect, ...]:
    """Return the effects of all knobs that vary in ``frame``, the largest first.

    Args:
        frame: a runs table; runs with a random router take part, as one level of ``router``.
        objective: ``bpb`` or ``loss``; None: ``bpb`` where there is one.
    """
    column = objective or ("bpb" if "bpb" in frame.columns and frame["bpb"].null_count() < frame.height else "loss")
    if column not in frame.columns:
        raise InvalidInputError(f"the table has no column {column}", allowed=", ".join(frame.columns))
    rows = frame.filter(pl.col(column).cast(pl.Float64).is_finite())
    knobs = _knobs(rows)
    if not knobs:
        return ()
    y = np.log(rows[column].cast(pl.Float64).to_numpy())
    scale = _scale(rows, column)
    columns = np.column_stack([scale, *(values for _, _, values in knobs)])
    center, width = columns.mean(axis=0), columns.std(axis=0)
    standard = (columns - center) / np.where(width > 0, width, 1)
    precision = np.array([SCALE_SD] * scale.shape[1] + [KNOB_SD] * len(knobs)) ** -2.0
    mean, covariance = _regression(standard, y - y.mean(), precision)
    found = []
    names = [*(["scale"] * scale.shape[1]), *(name for name, _, _ in knobs)]
    for k, (knob, levels, values) in enumerate(knobs, start=scale.shape[1]):
        low, high = (0.0, 1.0) if levels else _usual_range(values)
        move = (high - low) * _direction(names, k, center) / np.where(width > 0, width, 1)
        middle, spread = move @ mean, 1.96 * np.sqrt(move @ covariance @ move)
        start, end = levels or ((math.exp(low), math.exp(high)) if NUMERIC.get(knob) else (low, high))
        percents = (100 * np.expm1(middle + sign * spread) for sign in (0, -1, 1))
        found.append(Effect(knob, start, end, *map(float, percents)))
    return tuple(sorted(found, key=lambda effect: -abs(effect.percent)))


def _direction(names: Sequence[str], k: int, center: Array) -> Array:
    """How all columns move when column ``k`` rises by one: a mixture weight takes from the others in proportion."""
    direction = np.zeros(len(names))
    if names[k].startswith("weight/"):
        others = [j for j, name in enumerate(names) if name.startswith("weight/") and j != k]
        direction[others] = -center[others] / max(center[others].sum(), 1e-12)
    direction[k] = 1.0
    return direction


def _usual_range(values: Array) -> tuple[float, float]:
    """The 10 % and 90 % quantiles, or the extremes of a knob that hardly moves."""
    low, high = np.quantile(values, [0.1, 0.9])
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def _knobs(rows: pl.DataFrame) -> list[tuple[str, tuple[str, str] | None, Array]]:
    """(knob, levels of a category, values (runs,)) of every knob that varies; a level is a knob of 0 and 1."""
    knobs: list[tuple[str, tuple[str, str] | None, Array]] = []
    numeric = {**NUMERIC, **{name: False for name in rows.columns if name.startswith("weight/")}}
    for name, logarithmic in numeric.items():
        if name in rows.columns:
            values = rows[name].cast(pl.Float64).fill_null(0.0).to_numpy()
            values = np.log(values) if logarithmic else values
            if np.ptp(values) > 1e-9:
                knobs.append((name, None, values))
    for name in CATEGORICAL:
        if name in rows.columns:
            levels = rows[name].value_counts(sort=True)[name].to_list()
            for level in levels[1:]:
                knobs.append((name, (str(levels[0]), str(level)), (rows[name] == level).to_numpy().astype(float)))
    return knobs


def _scale(rows: pl.DataFrame, column: str) -> Array:
    """(runs, 3): the prediction of a dense law fitted to these runs, log size, log tokens."""
    size = "n_active_non_embedding" if "n_active_non_embedding" in rows.columns else "n_active"
    logs: Array = np.log(rows.select(pl.col(size, "tokens").cast(pl.Float64)).to_numpy())
    try:
        law = fit(get_law("chinchilla"), rows, objective=column, resamples=0)
    except InvalidInputError:  # too few runs for a law: log size and log tokens alone describe the scale
        return logs
    return np.column_stack([law.log_means(rows)[0], logs])


def _regression(x: Array, y: Array, precision: Array) -> tuple[Array, Array]:
    """Posterior mean and covariance of the coefficients; the noise follows from the residual."""
    variance = float(y.var()) or 1e-6
    for _ in range(10):
        inverse = x.T @ x / variance + np.diag(precision)
        mean = np.asarray(np.linalg.solve(inverse, x.T @ y / variance), dtype=np.float64)
        freedom = max(len(y) - 1 - np.trace(np.linalg.solve(inverse, x.T @ x / variance)), 1.0)
        variance = max(float(((y - x @ mean) ** 2).sum()) / freedom, 1e-8)
    return mean, np.asarray(np.linalg.inv(x.T @ x / variance + np.diag(precision)), dtype=np.float64)
