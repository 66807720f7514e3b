"""A recorded table as a search problem: which columns are the design, which one the fidelity, what is minimised.

name: regmix-pile-cc
table: regmix.csv                      # beside this file
config:
  mixture: [train_arxiv, train_github] # weights of one mixture
  numeric: [{column: lr, log: true}]
  categorical: [router]
fidelity: {column: size, ladder: [1M, 60M, 1B], cost: [0.0004, 0.02, 1]}
objective: '"metric/pile_cc"'          # a Polars SQL expression, minimised
noise_columns: [seed]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from moe_search.scaling.expressions import evaluate, mask, missing_column
from moe_search.scaling.runs import read_runs
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen

Array = npt.NDArray[np.float64]

ROUNDED = 0.05
"""How far the weights of a mixture may be from 1 in sum; they are scaled to it."""


class NumericColumn(Frozen):
    """A number of the design."""

    column: str
    log: bool = False
    """Whether ratios matter rather than differences."""


class Config(Frozen):
    """The columns that are the design: rows that agree in all of them are one design."""

    mixture: tuple[str, ...] = ()
    numeric: tuple[NumericColumn, ...] = ()
    categorical: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.mixture or self.numeric or self.categorical):
            raise InvalidInputError("config names no column", allowed="mixture, numeric, categorical")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.mixture, *(numeric.column for numeric in self.numeric), *self.categorical)


class Fidelity(Frozen):
    """How a design was tried: from the cheapest to the target, and at what cost."""

    column: str
    ladder: tuple[str | float, ...] = Field(min_length=1)
    """Values of the column; the last is the target."""
    cost: tuple[float, ...] | str
    """Of one run a fidelity, the target's being 1; or a column with every run's cost, in any unit."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.ladder)) < len(self.ladder):
            raise InvalidInputError("ladder names a fidelity twice")
        if not isinstance(self.cost, str):
            if len(self.cost) != len(self.ladder):
                raise InvalidInputError(f"{len(self.cost)} costs of {len(self.ladder)} fidelities", where="cost")
            if min(self.cost) <= 0 or abs(self.cost[-1] - 1) > 1e-9:
                raise InvalidInputError("costs are positive, and the target's is 1", where="cost")
        return self


class ReplayTask(Frozen):
    """The task file."""

    name: str = Field(min_length=1)
    table: str
    where: str | None = None
    config: Config
    fidelity: Fidelity
    objective: str
    noise_columns: tuple[str, ...] = ()
    """Columns in which repeats of one run differ; their losses are averaged."""


@dataclass(frozen=True, eq=False)
class RecordedTable:
    """What a policy may choose from. Designs are numbered; fidelities too, the last being the target."""

    name: str
    features: Array
    """(designs, features): square roots of weights, numbers scaled to [0, 1], categories as 0 and 1."""
    mixture_width: int
    """Leading features that are square roots of a mixture's weights."""
    loss: Array
    """(fidelities, designs); nan where nobody ran it. A policy sees what it has paid for."""
    cost: Array
    """(fidelities, designs), in runs at the target."""
    fidelities: tuple[str, ...]

    @property
    def target(self) -> int:
        """The last fidelity."""
        return len(self.fidelities) - 1

    @property
    def positive(self) -> bool:
        """Whether ratios of losses mean something."""
        return bool(np.nanmin(self.loss) > 0)

    def options(self, fidelity: int) -> npt.NDArray[np.intp]:
        """Return the designs that were run at a fidelity."""
        return np.flatnonzero(np.isfinite(self.loss[fidelity]))

    def regret(self, design: int) -> float:
        """Return (loss - best) / (median - best) of a design at the target."""
        losses = self.loss[self.target]
        best = float(np.nanmin(losses))
        return (float(losses[design]) - best) / max(float(np.nanmedian(losses)) - best, 1e-300)


def load_table(task: ReplayTask, folder: Path) -> RecordedTable:
    """Read the table of a task.

    Raises:
        InvalidInputError: a column, an expression or a fidelity that is not there, or losses that are not numbers.
    """
    frame = read_runs(folder / task.table).frame
    if task.where is not None:
        frame = frame.filter(mask(frame, task.where, where="where"))
    for name in (*task.config.columns, task.fidelity.column, *task.noise_columns):
        if name not in frame.columns:
            raise missing_column(name, frame.columns, where=task.name)
    loss = evaluate(frame, task.objective, where="objective").cast(pl.Float64, strict=False)
    frame = frame.with_columns(loss.alias("__loss")).filter(pl.col("__loss").is_finite())
    places = {_text(value): place for place, value in enumerate(task.fidelity.ladder)}
    rung = [places.get(_text(value), -1) for value in frame[task.fidelity.column].to_list()]
    there = ", ".join(sorted(_text(value) for value in frame[task.fidelity.column].unique().to_list())[:12])
    frame = frame.with_columns(pl.Series("__rung", rung, dtype=pl.Int64)).filter(pl.col("__rung") >= 0)
    for value, place in places.items():
        if not (frame["__rung"] == place).any():
            raise InvalidInputError(
                f"no run with a loss has {task.fidelity.column} = {value}",
                where=f"{task.name}, fidelity.ladder",
                allowed=there,
            )
    frame = _with_costs(frame, task)
    keys = list(task.config.columns)
    runs = frame.group_by([*keys, "__rung"], maintain_order=True).agg(pl.col("__loss").mean(), pl.col("__cost").mean())
    designs = runs.select(keys).unique(maintain_order=True)
    numbered = runs.join(designs.with_row_index("__design"), on=keys, nulls_equal=True, maintain_order="left")
    features, width = _features(designs, task.config)
    table = np.full((2, len(places), designs.height), np.nan)
    rows, columns = numbered["__rung"].to_numpy(), numbered["__design"].to_numpy()
    table[0, rows, columns] = numbered["__loss"].to_numpy()
    table[1, rows, columns] = numbered["__cost"].to_numpy()
    return RecordedTable(task.name, features, width, table[0], table[1], tuple(places))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_costs(frame: pl.DataFrame, task: ReplayTask) -> pl.DataFrame:
    cost = task.fidelity.cost
    if not isinstance(cost, str):
        return frame.with_columns(
            pl.col("__rung").replace_strict(dict(enumerate(cost)), return_dtype=pl.Float64).alias("__cost")
        )
    values = evaluate(frame, f'"{cost}"', where="fidelity.cost").cast(pl.Float64, strict=False)
    if values.null_count() or not (values > 0).all():
        raise InvalidInputError(f"column {cost!r} has entries that are no positive numbers", where="fidelity.cost")
    at_target = values.filter(frame["__rung"] == len(task.fidelity.ladder) - 1).median()
    return frame.with_columns((values / at_target).alias("__cost"))


def _features(designs: pl.DataFrame, config: Config) -> tuple[Array, int]:
    """Coordinates (designs, features) in [0, 1], and how many of them are of the mixture."""
    parts: list[Array] = []
    if config.mixture:
        weights = designs.select(pl.col(config.mixture).cast(pl.Float64)).fill_null(0.0).to_numpy()
        total = weights.sum(axis=1, keepdims=True)
        worst = int(np.argmax(np.abs(total - 1)))
        if (weights < 0).any() or abs(float(total[worst, 0]) - 1) > ROUNDED:
            raise InvalidInputError(
                f"the mixture of a design sums to {float(total[worst, 0]):.3g}",
                where="config.mixture",
                allowed=f"weights >= 0 that sum to 1 within {ROUNDED:g}",
            )
        parts.append(np.sqrt(weights / total))
    for numeric in config.numeric:
        values = designs[numeric.column].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        if not np.isfinite(values).all() or (numeric.log and (values <= 0).any()):
            kind = "positive numbers" if numeric.log else "numbers"
            raise InvalidInputError(f"column {numeric.column!r} does not hold {kind} alone", where="config.numeric")
        values = np.log(values) if numeric.log else values
        parts.append(((values - values.min()) / max(float(np.ptp(values)), 1e-300))[:, None])
    for name in config.categorical:
        levels = designs[name].cast(pl.String).fill_null("")
        parts.append(
            np.array([[float(level == one) for one in levels.unique().sort()] for level in levels]) / np.sqrt(2)
        )
    return np.concatenate(parts, axis=1), len(config.mixture)
