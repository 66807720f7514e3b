"""What the figures draw: the runs table with its size groups, controls, comparable losses and hover texts.

The table may be a campaign's or come from outside with hardly more than a size, tokens and a loss. Nothing here assumes
a column; :meth:`RunsView.has` says whether one carries data.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
import numpy.typing as npt
import polars as pl

from moe_search.scaling.law import Array
from moe_search.scaling.repeats import seed_deviation
from moe_search.scaling.report.numbers import NO_VALUE, fixed, number, power, quantity

GAP = 1.25
"""Sizes further apart than this factor are different rungs: realised sizes scatter by less, ladders climb by more."""
WIDEST = 2.0
"""A rung that spans more than this factor is none: the values are continuous, and are cut into equal ratios."""
MOST_GROUPS = 6
REFERENCE = "@run "
"""What the page's script replaces, with the number that follows, by the description of a usable run."""
SIZE_COLUMNS = {
    "n_active_non_embedding": "active parameters, without embeddings",
    "n_active": "active parameters, embeddings included",
    "n_total_non_embedding": "total parameters, without embeddings",
    "n_total": "total parameters, embeddings included",
}


@dataclass(frozen=True)
class Objective:
    """The loss that the report compares: its column, its name in a sentence and its unit."""

    column: str
    name: str
    unit: str

    @property
    def axis(self) -> str:
        """Title of an axis."""
        return f"{self.name} ({self.unit})"


BITS_PER_BYTE = Objective("bpb", "held-out loss", "bits per byte")
NATS_PER_TOKEN = Objective("loss", "held-out loss", "nats per token")


@dataclass(frozen=True)
class Groups:
    """A positive column cut into few groups, from small to large."""

    index: npt.NDArray[np.intp]
    """(rows,) the group of each row."""
    labels: tuple[str, ...]
    centers: tuple[float, ...]
    """Median of each group."""


def group(values: Iterable[float]) -> Groups:
    """Cut positive ``values`` where they jump by more than ``GAP``; where that is too often, into equal ratios."""
    logs = np.log(np.fromiter(values, dtype=float))
    ordered = np.unique(logs)
    jumps = np.flatnonzero(np.diff(ordered) > math.log(GAP))
    rungs = np.split(ordered, jumps + 1)
    cuts = (ordered[jumps] + ordered[jumps + 1]) / 2
    if len(rungs) > MOST_GROUPS or any(len(rung) and np.ptp(rung) > math.log(WIDEST) for rung in rungs):
        parts = min(MOST_GROUPS, math.ceil(np.ptp(ordered) / math.log(WIDEST)))
        cuts = np.linspace(ordered[0], ordered[-1], parts + 1)[1:-1]
    index = np.searchsorted(cuts, logs)
    labels, centers = [], []
    used, index = np.unique(index, return_inverse=True)
    for member in range(len(used)):
        inside = np.exp(logs[index == member])
        labels.append(
            quantity(float(np.median(inside)), 2)
            if inside.max() < inside.min() * GAP**2
            else f"{quantity(float(inside.min()), 2)} to {quantity(float(inside.max()), 2)}"
        )
        centers.append(float(np.median(inside)))
    return Groups(index, tuple(labels), tuple(centers))


@dataclass(frozen=True)
class RunsView:
    """A view of the runs table for drawing."""

    frame: pl.DataFrame
    fitted: str | None = None
    """The loss column that laws were fitted to; None: bits per byte where the table has them."""

    def has(self, *columns: str, vary: bool = False) -> bool:
        """Whether every column exists with data in usable runs (and, with ``vary``, with at least two values)."""
        return all(
            column in self.usable.columns and self.usable[column].drop_nulls().n_unique() >= (2 if vary else 1)
            for column in columns
        )

    @cached_property
    def objective(self) -> Objective:
        """What the laws were fitted to; without laws bits per byte where the table has them, else nats per token."""
        has_bpb = "bpb" in self.frame.columns and self.frame["bpb"].is_not_null().any()
        return BITS_PER_BYTE if (self.fitted or ("bpb" if has_bpb else "")) == "bpb" else NATS_PER_TOKEN

    @cached_property
    def usable(self) -> pl.DataFrame:
        """Finished runs with a finite loss (and a size, tokens and a cost where the table has them), cheapest first."""
        column = self.objective.column
        if column not in self.frame.columns:
            return self.frame.clear()
        kept = pl.col(column).is_not_null() & pl.col(column).cast(pl.Float64).is_finite()
        if "status" in self.frame.columns:
            kept &= pl.col("status").is_null() | (pl.col("status") == "finished")
        for name in (self.size_column, "tokens", "train_flops"):
            if name in self.frame.columns and self.frame[name].is_not_null().any():
                value = pl.col(name).cast(pl.Float64)
                kept &= value.is_finite().fill_null(value=False) & (value > 0).fill_null(value=False)
        usable = self.frame.filter(kept)
        return usable.sort("train_flops", maintain_order=True) if "train_flops" in usable.columns else usable

    @property
    def loss(self) -> Array:
        """(usable,) the objective."""
        return self.column(self.objective.column)

    def column(self, name: str) -> Array:
        """(usable,) one column as numbers, NaN where it is empty."""
        return np.asarray(self.usable[name].cast(pl.Float64).fill_null(math.nan).to_numpy())

    @cached_property
    def size_column(self) -> str:
        """The first of ``SIZE_COLUMNS`` with data; empty where there is none."""
        columns = self.frame.columns
        return next((name for name in SIZE_COLUMNS if name in columns and self.frame[name].is_not_null().any()), "")

    @cached_property
    def size_words(self) -> str:
        """Which convention ``size_column`` follows."""
        return SIZE_COLUMNS.get(self.size_column, "")

    @cached_property
    def sizes(self) -> Groups:
        """The model sizes; one group where the table has none."""
        return self._groups(self.size_column)

    @cached_property
    def horizons(self) -> Groups:
        """The token horizons; one group where the table has none."""
        return self._groups("tokens")

    def _groups(self, name: str) -> Groups:
        return group(self.column(name) if self.has(name) else np.ones(self.usable.height))

    @cached_property
    def at_top(self) -> npt.NDArray[np.intp]:
        """(rows,) the usable runs of the largest size at its longest horizon."""
        largest = self.sizes.index == self.sizes.index.max()
        return np.flatnonzero(largest & (self.horizons.index == self.horizons.index[largest].max()))

    @cached_property
    def excess(self) -> Array:
        """(usable,) loss over the best loss of the same size and horizon, minus one: what the design alone explains."""
        cells = self.sizes.index * len(self.horizons.labels) + self.horizons.index
        best = np.full(cells.max() + 1 if len(cells) else 0, np.inf)
        np.minimum.at(best, cells, self.loss)
        excess: Array = self.loss / best[cells] - 1
        return excess

    @cached_property
    def kinds(self) -> npt.NDArray[np.object_]:
        """(usable,) ``dense`` and ``random router`` for the controls, ``searched`` for all else."""
        kinds = np.full(self.usable.height, "searched", dtype=object)
        if self.has("router"):
            routers = self.usable["router"].fill_null("").to_list()
            kinds[[router in ("random", "hash") for router in routers]] = "random router"
        dense = dense_runs(self.usable).to_numpy()
        if not dense.all():  # else a table of dense models, which are not each other's controls
            kinds[dense] = "dense"
        return kinds

    @cached_property
    def seed_noise(self) -> float | None:
        """Standard deviation of log loss between runs that differ in their seed alone; None without enough repeats."""
        return seed_deviation(self.usable, self.objective.column) if self.usable.height else None

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Domains that have mixture weights in the table."""
        return tuple(
            column.removeprefix("weight/")
            for column in self.usable.columns
            if column.startswith("weight/") and self.has(column)
        )

    @cached_property
    def weights(self) -> Array:
        """(usable, domains) mixture weights; a domain that a run did not name has weight zero."""
        columns = [np.nan_to_num(self.column(f"weight/{domain}")) for domain in self.domains]
        return np.stack(columns, axis=1) if columns else np.zeros((self.usable.height, 0))

    @cached_property
    def hover(self) -> list[str]:
        """(usable,) a reference to each run's description; the page holds every description once."""
        return [f"{REFERENCE}{row}" for row in range(self.usable.height)]

    @cached_property
    def descriptions(self) -> list[str]:
        """(usable,) the full design of each run, in the little HTML that plotly understands."""
        return [describe(row, self.objective) for row in self.usable.iter_rows(named=True)]


def dense_runs(frame: pl.DataFrame) -> pl.Series:
    """Return which runs (rows,) have no routed layer; none where the table does not say."""
    dense = pl.lit(value=False)
    if "n_moe_layers" in frame.columns:
        dense = pl.col("n_moe_layers") == 0
    elif "expansion" in frame.columns:
        dense = pl.col("expansion") == 1
    elif {"n_total", "n_active"} <= set(frame.columns):
        dense = pl.col("n_total") == pl.col("n_active")
    return frame.with_columns(dense=dense.fill_null(value=False))["dense"]


def describe(row: dict[str, object], objective: Objective) -> str:
    """Return the hover text of one run. Every text from the table is escaped."""

    def value(name: str) -> float | None:
        item = row.get(name)
        return float(item) if isinstance(item, (int, float)) else None

    def text(name: str) -> str:
        return escape(str(row.get(name) or ""))

    head = f"<b>{objective.name} {fixed(value(objective.column))}</b> {objective.unit}"
    lines = [head]
    if row.get("trial") is not None:
        lines[0] = f"trial {text('trial')}, " + head
    lines.append(
        _join(
            (f"{quantity(value('n_active'))} active", value("n_active")),
            (f"{quantity(value('n_total'))} total", value("n_total")),
            (f"{quantity(value('tokens'))} tokens", value("tokens")),
            (f"{power(value('train_flops'))} FLOPs", value("train_flops")),
        )
    )
    if value("n_moe_layers") == 0:
        lines.append("dense control")
    else:
        lines.append(
            _join(
                (f"granularity {number(value('granularity'))}", value("granularity")),
                (f"activation ratio {number(value('activation_ratio'))}", value("activation_ratio")),
                (f"{number(value('n_experts'))} experts, top {number(value('top_k'))}", value("n_experts")),
                (f"{number(value('n_shared_experts'))} shared", value("n_shared_experts")),
            )
        )
        lines.append(_join((text("router"), row.get("router")), (text("balancing"), row.get("balancing"))))
        layers = row.get("experts_per_layer")
        if isinstance(layers, (list, tuple)) and layers:
            lines.append("experts per layer " + " ".join(map(str, layers[:16])) + (" …" if len(layers) > 16 else ""))
    weights = {name.removeprefix("weight/"): value(name) for name in row if name.startswith("weight/")}
    shares = [f"{escape(domain)} {100 * weight:.0f} %" for domain, weight in weights.items() if weight]
    lines += [", ".join(shares[start : start + 4]) for start in range(0, len(shares), 4)]
    return "<br>".join(line for line in lines if line)


def _join(*parts: tuple[str, object]) -> str:
    return ", ".join(text for text, present in parts if present is not None and NO_VALUE not in text)
