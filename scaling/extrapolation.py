"""How far beyond its runs a prediction lies, in decades of training compute, of size and of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from moe_search.scaling.law import Array

EDGE = 0.9
"""Share of the runs within the edge that extrapolation is measured from; the very largest run may be an outlier."""
SIZES = ("n_active", "n_active_non_embedding", "n_total", "n_total_non_embedding")
"""Columns of a size, the first that is there; with tokens it gives the compute where a table has none."""


def compute_of(frame: pl.DataFrame) -> Array | None:
    """Return the training FLOPs of runs (rows,), 6 N D where there is no such column; None where neither is known."""
    given = _positive(frame, "train_flops")
    if given is not None:
        return given
    sizes = [name for name in SIZES if name in frame.columns]
    size, tokens = (_positive(frame, name) for name in (sizes[0] if sizes else "", "tokens"))
    return None if size is None or tokens is None else 6 * size * tokens


def largest_compute(frame: pl.DataFrame) -> float | None:
    """Return the training FLOPs of the largest run; None where those of some run are not known."""
    flops = compute_of(frame)
    return None if flops is None or not len(flops) else float(flops.max())


@dataclass(frozen=True)
class Edge:
    """Where the runs end in one column, and how far they extend."""

    level: float
    """Few runs are larger."""
    span: float
    """Decades from where few runs are smaller to ``level``."""


def edges(frame: pl.DataFrame) -> dict[str, Edge]:
    """Return column to the edge beyond which a prediction leaves the runs.

    The columns are ``train_flops``, the first size and ``tokens``, those that all runs have.
    """
    sizes = [name for name in SIZES if name in frame.columns][:1]
    found = {}
    for name in ("train_flops", *sizes, "tokens"):
        values = _column(frame, name)
        if values is not None:
            low, high = np.quantile(np.log10(values), [1 - EDGE, EDGE])
            found[name] = Edge(float(10**high), float(high - low))
    return found


def reach(frame: pl.DataFrame, levels: Mapping[str, Edge]) -> Array:
    """Return how far beyond each edge runs are (columns, rows): d sqrt(d + span) of the d decades; 0 below it.

    A law whose slope is wrong errs as d, one that misses a curvature as d (d + span): it made up for the curvature
    within the span, and the more the wider. Between them, because it is not known which, is their geometric mean.

    What is not known of the runs is not known to be extrapolation, and is 0 too.
    """
    reached = np.zeros((len(levels), frame.height))
    for row, (name, edge) in enumerate(levels.items()):
        values = _column(frame, name)
        if values is not None:
            decades = np.maximum(np.log10(values / edge.level), 0.0)
            reached[row] = decades * np.sqrt(decades + edge.span)
    return reached


def _column(frame: pl.DataFrame, name: str) -> Array | None:
    return compute_of(frame) if name == "train_flops" else _positive(frame, name)


def _positive(frame: pl.DataFrame, name: str) -> Array | None:
    """Values of a column (rows,); None where it is not there or some are not positive and finite."""
    if name not in frame.columns or not frame[name].dtype.is_numeric():
        return None
    values: Array = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return values if (np.isfinite(values) & (values > 0)).all() else None
