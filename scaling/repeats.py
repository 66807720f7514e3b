"""What the seed alone does: the spread of runs that differ in nothing else."""

from typing import Final

import numpy as np
import polars as pl
import polars.selectors as cs

FEWEST_DEGREES: Final = 3
"""Repeats beyond the first of their group, over all groups: with fewer the deviation is uncertain by half and more."""
NAMES: Final = ("seed", "run_key", "trial")
MEASURED: Final = (
    *("train_loss", "unigram_loss", "load_imbalance", "router_entropy", "expert_load", "paid_flops"),
    *("wall_seconds", "tokens_per_second", "device", "message"),
)
LOSSES: Final = r"^(loss|bpb)(/.*)?$"


def seed_deviation(frame: pl.DataFrame, column: str) -> float | None:
    """Return the standard deviation of log loss between runs that differ in their seed alone.

    Runs are repeats when they agree in every column but ``seed``, names and measurements. The deviation is pooled over
    all groups of repeats; None without a column ``seed``, or with fewer than ``FEWEST_DEGREES`` degrees of freedom.

    Args:
        frame: observed runs.
        column: of the losses.
    """
    if "seed" not in frame.columns:
        return None
    setting = frame.select(
        ~(cs.by_name(*NAMES, *MEASURED, column, require_all=False) | cs.matches(LOSSES) | cs.nested())
    ).columns
    if not setting:
        return None
    groups = (
        frame.with_columns(pl.col(column).cast(pl.Float64).log().alias("log loss"))
        .group_by(setting, maintain_order=True)  # the same table gives the same digits
        .agg(
            pl.len().alias("n"),
            pl.col("seed").n_unique().alias("seeds"),
            pl.col("log loss").var().alias("variance"),
        )
        .filter((pl.col("n") > 1) & (pl.col("seeds") == pl.col("n")))
    )
    degrees = groups["n"].to_numpy() - 1
    if degrees.sum() < FEWEST_DEGREES:
        return None
    return float(np.sqrt(np.average(groups["variance"].to_numpy(), weights=degrees)))
