"""Runs that did not finish but still say something: their loss bounds the law's from one side.

A *truncated* run was stopped early. Trained on, it would have ended at its last loss or below: the law, which predicts
finished runs, may not lie above it. A *diverged* run whose loss was kept says that such a run ends at that loss or
above. Both enter the fit as one-sided residuals, which are zero where the law keeps the bound.

Leaving such runs out is harmless where stopping had nothing to do with the loss. Where runs were stopped *because* a
target was reached, the finished ones are those that came out worse, and a fit to them alone is too high; truncated
runs are therefore bounds by default. A divergence is more often a learning rate than a law, so that diverged runs are
bounds only where asked for: it is right where a run is stopped for a loss above a limit.
"""

from collections.abc import Collection
from typing import Final, Literal, cast

import numpy as np
import polars as pl

from moe_search.scaling.law import Array
from moe_search.spaces.errors import InvalidInputError

Censored = Literal["truncated", "diverged"]
SIDES: Final[dict[str, float]] = {"truncated": 1.0, "diverged": -1.0}
"""1: the law's loss is at most the run's; -1: at least."""
BY_DEFAULT: Final[tuple[Censored, ...]] = ("truncated",)


def check_censored(statuses: Collection[str]) -> tuple[Censored, ...]:
    """Return the statuses, each of which bounds the loss.

    Raises:
        InvalidInputError: one bounds nothing.
    """
    for status in statuses:
        if status not in SIDES:
            raise InvalidInputError(
                f"a run with status {status!r} bounds no loss",
                where="--censored",
                allowed=f"{', '.join(SIDES)}, or none",
            )
    return tuple(cast("Censored", status) for status in statuses)


def parse_censored(text: str) -> tuple[Censored, ...]:
    """Return the statuses in ``--censored truncated,diverged``; none of them for ``none``."""
    return () if text.strip() == "none" else check_censored([part.strip() for part in text.split(",")])


def sides(frame: pl.DataFrame) -> Array:
    """Return the side (runs,) of every run: 0 for an observation, 1 or -1 for a bound by its status."""
    if "status" not in frame.columns:
        return np.zeros(frame.height)
    return np.array([SIDES.get(status, 0.0) for status in frame["status"].to_list()])


def censoring_notes(bound: Array, residual: Array) -> list[str]:
    """Say how many bounds there are, and how many of them hold the law back.

    Args:
        bound: (runs,) sides.
        residual: (runs,), zero for a bound that is kept.
    """
    notes = []
    for status, side in SIDES.items():
        count = int((bound == side).sum())
        if count:
            binding = int(((bound == side) & (residual != 0)).sum())
            name = {1.0: "upper", -1.0: "lower"}[side]
            notes.append(f"{count} {status} runs are {name} bounds of the loss; {binding} of them move the fit")
    return notes
