"""How far beyond its runs a prediction lies, in decades of training compute."""

import numpy as np
import polars as pl

from moe_search.scaling.law import Array

EDGE = 0.9
"""Share of the runs within the edge that extrapolation is measured from; the very largest run may be an outlier."""
SIZES = ("n_active", "n_active_non_embedding", "n_total", "n_total_non_embedding")
"""Columns of a size, the first that is there; with tokens it gives the compute where a table has none."""


def compute_of(frame: pl.DataFrame) -> Array | None:
    """Return the training FLOPs of runs (rows,), 6 N D where there is no such column; None where neither is known."""
    if "train_flops" in frame.columns and frame["train_flops"].null_count() == 0:
        flops: Array = frame["train_flops"].cast(pl.Float64).to_numpy()
    else:
        sizes = [name for name in SIZES if name in frame.columns]
        if not sizes or "tokens" not in frame.columns:
            return None
        product = frame[sizes[0]].cast(pl.Float64) * frame["tokens"].cast(pl.Float64)
        flops = 6 * product.fill_null(np.nan).to_numpy()
    return flops if (np.isfinite(flops) & (flops > 0)).all() else None


def edge(flops: Array) -> float:
    """Return the compute beyond which a prediction leaves the runs (runs,): few of them are larger."""
    return float(np.exp(np.quantile(np.log(flops), EDGE)))


def distance(flops: Array, beyond: float) -> Array:
    """Return the decades of compute of each run (rows,) beyond a level; 0 below it."""
    decades: Array = np.maximum(np.log10(flops / beyond), 0.0)
    return decades
