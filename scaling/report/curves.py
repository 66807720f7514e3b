"""Hypothetical runs for drawing a law as a curve: one design, any size, any tokens.

A law reads raw columns, and several of them are sizes. They are interpolated together, as power laws between the sizes
that were run, so that a curve passes through the sizes that exist.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.predictor import design_frame
from moe_search.scaling.recommendation import Choice
from moe_search.scaling.report.runs_view import RunsView
from moe_search.spaces.design import Scale
from moe_search.spaces.resolve import Resolved

WITH_SIZE = ("n_active", "n_active_non_embedding", "d_model")
"""Columns that follow from the size alone, whatever the design (nearly)."""


def typical_row(seen: RunsView) -> Mapping[str, object]:
    """Return the best searched run at the largest size: the design whose curves are drawn."""
    rows = np.flatnonzero(seen.kinds == "searched")
    rows = rows if len(rows) else np.arange(seen.usable.height)
    best = min(rows, key=lambda row: (-seen.sizes.index[row], -seen.horizons.index[row], seen.loss[row]))
    return seen.usable.row(int(best), named=True)


def at_scale(seen: RunsView, design: Mapping[str, object], size: Array, tokens: Array) -> pl.DataFrame:
    """Return the runs of ``design`` at sizes (rows,), in units of ``seen.size_column``, and tokens (rows,)."""
    rows = len(size)
    columns: dict[str, object] = {
        name: [value] * rows for name, value in design.items() if isinstance(value, int | float | str) or value is None
    }
    own = {name: float(value) for name, value in design.items() if isinstance(value, int | float)}
    columns[seen.size_column] = size
    columns["tokens"] = tokens
    for name in WITH_SIZE:
        if name != seen.size_column and name in own:
            columns[name] = _follow(seen, name, size)
    # the inactive experts keep their share, whatever the embedding does
    for suffix in ("", "_non_embedding"):
        active, total = f"n_active{suffix}", f"n_total{suffix}"
        if active in own and total in own and total != seen.size_column:
            columns[total] = np.asarray(columns[active], dtype=float) * own[total] / own[active]
    if "d_model" in own and "d_expert" in own:
        columns["d_expert"] = np.asarray(columns["d_model"], dtype=float) * own["d_expert"] / own["d_model"]
    if "train_flops" in own:
        columns["train_flops"] = _follow(seen, "train_flops", size, over="tokens") * tokens
    return pl.DataFrame(columns, strict=False)


def flops_per_token(seen: RunsView, size: Array) -> Array:
    """Return the training FLOPs of one token for models of ``size`` (rows,), as the runs have them."""
    return _follow(seen, "train_flops", size, over="tokens")


def _follow(seen: RunsView, name: str, size: Array, over: str = "") -> Array:
    """Interpolate a column (per unit of ``over``) at ``size``: straight lines in logarithms, prolonged at the ends."""
    values = np.log(seen.column(name) / (seen.column(over) if over else 1.0))
    sizes = np.log(seen.column(seen.size_column))
    groups = range(len(seen.sizes.labels))
    x = np.array([np.median(sizes[seen.sizes.index == group]) for group in groups])
    y = np.array([np.median(values[seen.sizes.index == group]) for group in groups])
    wanted = np.log(size)
    if len(x) == 1:
        return np.asarray(np.exp(y[0] + wanted - x[0]))
    piece = np.clip(np.searchsorted(x, wanted) - 1, 0, len(x) - 2)
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return np.asarray(np.exp(y[piece] + slope * (wanted - x[piece])))


def target_frame(best: Choice) -> pl.DataFrame:
    """Return the recommended model as a row of a runs table that has not been trained."""
    scale = Scale(n_active=best.realised.n_active_non_embedding, tokens=best.tokens)
    resolved = Resolved(design=best.design, scale=scale, architecture=best.architecture, realised=best.realised)
    return design_frame([resolved])


def curve(fit: Fit, frame: pl.DataFrame) -> tuple[Array, Array, Array]:
    """Return the law's loss and its 95 % band, noise-free: middle, low, high, each (rows,)."""
    middle, draws, _ = fit.log_draws(frame)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1) if draws.shape[1] > 1 else (middle, middle)
    return np.exp(middle), np.exp(low), np.exp(high)


def expected(fit: Fit, frame: pl.DataFrame) -> Array:
    """Return the law's loss at the optimum (rows,)."""
    loss: Array = np.exp(fit.law.log_loss(fit.theta[None, :], fit.law.variables(frame))[0])
    return loss
