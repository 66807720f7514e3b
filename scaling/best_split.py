"""The split of compute between parameters and tokens that a law says is best (Approach 3), in every draw of a fit.

The minimum is looked for on a grid, not by a formula of one law, so that any law of sizes and tokens has one. Compute
is C = k N D, with the k of the table: its runs know what an attention layer and an embedding cost.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from moe_search.scaling.extrapolation import compute_of
from moe_search.scaling.law import Array, Law
from moe_search.spaces.errors import InvalidInputError

STEP: Final = 0.02
"""Of log size; a parabola through the best three points leaves an error of about 1e-5."""
BEYOND: Final = 5.0
"""Of log size: how far beyond the sizes that were run a best size is looked for."""
SIZES_OF_A_LAW: Final = ("n_active", "n_total", "n_active_non_embedding", "n_total_non_embedding")


@dataclass(frozen=True)
class Ladder:
    """What of a table is needed to make up a run of any size and any compute."""

    size_column: str
    flops_factor: float
    """k in C = k N D: the median over runs."""
    ratios: dict[str, float]
    """Other columns of sizes to their median ratio to the size."""
    constants: dict[str, object]
    """Columns that hold one value in all runs."""
    log_sizes: tuple[float, float]
    """Smallest and largest."""
    log_flops: tuple[float, float]
    """Smallest and largest."""

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Ladder":
        """Read it off a table of runs that :func:`complete` returned."""
        sizes = _sizes(frame)
        flops = compute_of(frame)
        assert flops is not None, "a complete run has its compute"
        values = {name: frame[name].cast(pl.Float64).to_numpy() for name in (*sizes, "tokens")}
        size = values[sizes[0]]
        known = {*values, "train_flops", "loss", "bpb"}
        constants = {name: frame[name][0] for name in frame.columns if name not in known and _constant(frame[name])}
        return cls(
            size_column=sizes[0],
            flops_factor=float(np.median(flops / (size * values["tokens"]))),
            ratios={name: float(np.nanmedian(values[name] / size)) for name in sizes[1:]},
            constants=constants,
            log_sizes=(float(np.log(size.min())), float(np.log(size.max()))),
            log_flops=(float(np.log(flops.min())), float(np.log(flops.max()))),
        )

    def models(self, log_size: Array, train_flops: float) -> pl.DataFrame:
        """Return models of these sizes (rows,), each with the tokens that the compute leaves."""
        size = np.exp(log_size)
        columns = {self.size_column: size, **{name: ratio * size for name, ratio in self.ratios.items()}}
        columns["tokens"] = train_flops / (self.flops_factor * size)
        columns["train_flops"] = np.full_like(size, train_flops)
        return pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in self.constants.items()})


def complete(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the runs whose size, tokens and compute are known.

    Raises:
        InvalidInputError: the table lacks one of them.
    """
    sizes = _sizes(frame)
    known = [*sizes[:1], "tokens", *({"train_flops"} & set(frame.columns))]
    if sizes and "tokens" in frame.columns:
        positive = [pl.col(name).cast(pl.Float64).is_between(0, float("inf"), closed="none") for name in known]
        rows = frame.filter(pl.all_horizontal(positive).fill_null(value=False))
        if rows.is_empty() and "train_flops" in known:  # a column without values: 6 N D takes its place
            return complete(frame.drop("train_flops"))
        if rows.height and compute_of(rows) is not None:
            return rows
    raise InvalidInputError(
        "the best split of compute needs a size, tokens and training FLOPs of every run",
        where="approaches",
        allowed=f"a column of {', '.join(SIZES_OF_A_LAW)}, the column tokens, and train_flops unless it is 6 N D",
    )


def _sizes(frame: pl.DataFrame) -> list[str]:
    """The columns of sizes that have values."""
    return [name for name in SIZES_OF_A_LAW if name in frame.columns and frame[name].null_count() < frame.height]


def best_log_size(law: Law, theta: Array, ladder: Ladder, train_flops: Array) -> Array:
    """Return the logarithm of the size of lowest loss at each compute, (draws, computes); nan where there is none.

    Args:
        law: of sizes and tokens.
        theta: (draws, parameters), internal.
        ladder: of the table.
        train_flops: (computes,).
    """
    rows = np.arange(len(theta))
    best = np.empty((len(theta), len(train_flops)))
    for column, flops in enumerate(np.log(train_flops)):
        low = ladder.log_sizes[0] - BEYOND + min(flops - ladder.log_flops[0], 0.0)
        high = ladder.log_sizes[1] + BEYOND + max(flops - ladder.log_flops[1], 0.0)
        grid = np.arange(low, high, STEP)
        loss = law.log_loss(theta, law.variables(ladder.models(grid, float(np.exp(flops)))))
        place = np.argmin(loss, axis=1)
        inner = np.clip(place, 1, len(grid) - 2)
        before, here, after = (loss[rows, inner + offset] for offset in (-1, 0, 1))
        bend = before - 2 * here + after
        bottom = grid[inner] + 0.5 * STEP * (before - after) / np.where(bend > 0, bend, np.nan)
        best[:, column] = np.where(place == inner, bottom, np.nan)
    return best


def _constant(column: pl.Series) -> bool:
    """Whether a column that a law could read (a number or a name) is the same in all rows."""
    return (
        (column.dtype.is_numeric() or column.dtype == pl.String) and column.n_unique() == 1 and not column.has_nulls()
    )
