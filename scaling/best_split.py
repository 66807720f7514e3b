"""The split of compute between parameters and tokens that a law says is best (Approach 3), in every draw of a fit.

The minimum is looked for on a grid, not by a formula of one law, so that any law of sizes and tokens has one. Compute
is C = k N D, with the k of the table, a power of the size: its runs know what an attention layer and an embedding cost.
Where designs differ, the split is that of the design with the lowest loss.
"""

import re
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

LOSS: Final = re.compile(r"(loss|bpb)(/|$)")
DESIGN: Final = re.compile(r"(granularity|activation_ratio|expansion|n_shared_experts|weight/.*)$")
"""Columns of a design whose effect on the loss laws know."""
STEEP: Final = 0.02
"""Power of the size in k from which it is said: it moves an exponent by about half of it."""
ROUGH: Final = 1.25
"""Scatter of k from which it is said."""
OF_ONE_RUN: Final = ("unique_tokens", "epochs")
"""That a model with other tokens would have otherwise."""


@dataclass(frozen=True)
class Ladder:
    """What of a table is needed to make up a run of any size and any compute."""

    size_column: str
    flops_factor: float
    """k in C = k N D at the middle size: the median over runs."""
    flops_slope: float
    """Power with which k changes with the size, as where compute leaves embeddings out and N counts them."""
    flops_scatter: float
    """Ratio of the 95 % and the 5 % quantile of k around that power of the size."""
    middle: float
    """Log size at which k is ``flops_factor``."""
    ratios: dict[str, float]
    """Other columns of sizes to their ratio to the size, in the run of lowest loss."""
    design: dict[str, object]
    """All that is neither size, tokens, compute nor loss: the columns of the run of lowest loss."""
    varied: tuple[str, ...]
    """Columns of the design that differ between runs and that laws read."""
    log_sizes: tuple[float, float]
    """Smallest and largest."""
    log_flops: tuple[float, float]
    """Smallest and largest."""

    @classmethod
    def of(cls, frame: pl.DataFrame, column: str) -> "Ladder":
        """Read it off a table of runs that :func:`complete` returned, with losses in ``column``."""
        sizes = _sizes(frame)
        flops = compute_of(frame)
        assert flops is not None, "a complete run has its compute"
        values = {name: frame[name].cast(pl.Float64).to_numpy() for name in (*sizes, "tokens")}
        size = values[sizes[0]]
        log_size, log_k = np.log(size), np.log(flops / (size * values["tokens"]))
        middle = float(np.median(log_size))
        centred = log_size - middle
        slope = float(centred @ (log_k - log_k.mean()) / max(float(centred @ (centred - centred.mean())), 1e-9))
        around = log_k - slope * centred
        best = int(np.argmin(frame[column].cast(pl.Float64).to_numpy()))
        known = {*values, "train_flops"}
        design = {
            name: frame[name][best]
            for name in frame.columns
            if name not in known and not LOSS.match(name) and _of_a_design(frame[name])
        }
        return cls(
            size_column=sizes[0],
            flops_factor=float(np.exp(np.median(around))),
            flops_slope=slope,
            flops_scatter=float(np.exp(np.subtract(*np.quantile(around, [0.95, 0.05])))),
            middle=middle,
            ratios={name: float(values[name][best] / size[best]) for name in sizes[1:]},
            design=design,
            varied=tuple(name for name in design if DESIGN.match(name) and frame[name].n_unique() > 1),
            log_sizes=(float(log_size.min()), float(log_size.max())),
            log_flops=(float(np.log(flops.min())), float(np.log(flops.max()))),
        )

    def notes(self) -> list[str]:
        """Return sentences on what a split of compute means in this table."""
        notes = []
        if self.varied:
            notes.append(
                f"designs differ ({', '.join(self.varied)}): Approach 3 is asked about the design of the lowest loss, "
                "Approaches 1 and 2 mix them"
            )
        if abs(self.flops_slope) > STEEP:
            notes.append(
                f"compute for each parameter and token goes as N^{self.flops_slope:.2f} in these runs, because N and "
                "C do not count the same; exponents are for this C, those of C = 6 N D differ"
            )
        if self.flops_scatter > ROUGH:
            notes.append(
                f"C / (N D) differs by {self.flops_scatter:.2f} between runs of one size, so that C = k N D is rough"
            )
        return notes

    def log_tokens(self, log_size: Array, log_flops: float) -> Array:
        """Return the logarithm of the tokens that a compute leaves for each size."""
        factor = np.log(self.flops_factor) + self.flops_slope * (log_size - self.middle)
        return np.asarray(log_flops - factor - log_size)

    def models(self, log_size: Array, train_flops: float) -> pl.DataFrame:
        """Return models of these sizes (rows,), each with the tokens that the compute leaves."""
        size = np.exp(log_size)
        columns = {self.size_column: size, **{name: ratio * size for name, ratio in self.ratios.items()}}
        columns["tokens"] = np.exp(self.log_tokens(log_size, np.log(train_flops)))
        columns["train_flops"] = np.full_like(size, train_flops)
        return pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in self.design.items()})


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


def _of_a_design(column: pl.Series) -> bool:
    """Whether a column is a number or a name in all rows, and no stock of tokens that goes with a run's own tokens."""
    readable = column.dtype.is_numeric() or column.dtype == pl.String
    own = column.name in OF_ONE_RUN and column.n_unique() > 1
    return readable and not column.has_nulls() and not own
