"""What a report adds to a fit: held-out errors over several cuts of compute, and the sensitivity of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from moe_search.scaling.fit import usable_runs
from moe_search.scaling.fitted import Fit
from moe_search.scaling.rolling import Rolling, roll
from moe_search.scaling.sensitivity import Sensitivity, sensitivity
from moe_search.spaces.errors import InvalidInputError

FURTHER = 10.0
"""Times the compute of the largest run that the sensitivity of the loss is asked for."""
SIZES = ("n_active", "n_total", "n_active_non_embedding", "n_total_non_embedding")
ROLLED_RESAMPLES, ROLLED_STARTS = 100, 48
REFIT_STARTS = 48


@dataclass(frozen=True)
class Examined:
    """The further examinations; or why one was not made."""

    sensitivity: Sensitivity | str
    rolling: Rolling | str


def examine(
    frame: pl.DataFrame,
    fits: Sequence[Fit],
    *,
    rolled: Rolling | None = None,
    cluster: str | None,
    seed: int,
) -> Examined:
    """Examine fitted laws, the one to extrapolate with first.

    Args:
        frame: the runs table that they were fitted to.
        fits: the laws, fitted to all runs.
        rolled: their held-out errors where they are known already; None: they are measured.
        cluster: the resampling unit.
        seed: of starts and resamples.
    """
    if not fits:
        return Examined("No law was fitted, so there is no answer that could be sensitive.", "No law was fitted.")
    chosen = fits[0]
    usable, _ = usable_runs(frame, chosen.objective_column)
    try:
        moved: Sensitivity | str = sensitivity(
            chosen, frame, asked_models(usable), cluster=cluster, seed=seed, starts=REFIT_STARTS
        )
    except InvalidInputError as error:
        moved = f"The sensitivity of the answer cannot be computed: {error}."
    if rolled is not None:
        return Examined(moved, rolled)
    try:
        record: Rolling | str = roll(
            [one.law for one in fits],
            frame,
            objective=chosen.objective_column,
            cluster=cluster,
            resamples=ROLLED_RESAMPLES,
            starts=ROLLED_STARTS,
            seed=seed,
        )
    except InvalidInputError as error:
        record = f"Held-out errors over several cuts of compute cannot be computed: {error}."
    return Examined(moved, record)


def asked_models(usable: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the largest run, and the same at ``FURTHER`` times its compute, as rows of a runs table.

    Both sizes and tokens grow, each by the square root; where all runs had the same tokens, sizes alone.
    """
    order = next((name for name in ("train_flops", *SIZES) if name in usable.columns), None)
    if order is None or usable.is_empty():
        return {}
    largest = usable.sort(pl.col(order).cast(pl.Float64), nulls_last=False).tail(1)
    has_tokens = "tokens" in usable.columns and usable["tokens"].n_unique() > 1
    growth = dict.fromkeys(SIZES, FURTHER**0.5 if has_tokens else FURTHER)
    growth |= {"tokens": FURTHER**0.5 if has_tokens else 1.0, "train_flops": FURTHER}
    columns = [pl.col(name).cast(pl.Float64) * factor for name, factor in growth.items() if name in usable.columns]
    return {"loss of the largest run": largest, f"loss at {FURTHER:g} x its compute": largest.with_columns(columns)}
