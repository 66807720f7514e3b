"""Tables as the templates draw them: what a cell says, what it is worth for sorting, and what is drawn in it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from moe_search.scaling.report.figures.schedules import FREE, schedule_name
from moe_search.scaling.report.numbers import duration, fixed, number, power, quantity
from moe_search.scaling.report.runs_view import RunsView

MOST_ROWS = 1000
"""Rows of the table of all runs in the page; a longer table is complete in its CSV."""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    title: str
    unit: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell. ``value`` is what a sortable table sorts by; empty where there is none."""

    text: str = ""
    value: float | str | None = None
    numeric: bool = False
    wrap: bool = False
    markup: Markup | None = None
    """Typeset text that stands instead of ``text``."""
    share: float | None = None
    """A small bar beside the text, as a share of one."""
    small: str = ""
    """A second line under the text."""
    span: tuple[float, float, float, float, float] | None = None
    """Under the text: an interval (low, middle, high) drawn on the scale (left, right)."""


@dataclass(frozen=True)
class Row:
    """One row; ``kind`` is ``chosen``, ``failed`` or nothing."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table for the macro ``table``."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    sortable: bool = False
    tall: bool = False


def figure_cell(text: str, value: float | None = None, *, share: float | None = None) -> Cell:
    """A number in a cell: right-aligned, sorted by its value."""
    return Cell(text, "" if value is None else value, numeric=True, share=share)


Format = Callable[[float | None], str]
NUMBERS: tuple[tuple[str, str, str, Format], ...] = (
    ("n_active", "active N", "with embeddings", quantity),
    ("n_total", "total N", "with embeddings", quantity),
    ("n_active_non_embedding", "active N", "no embeddings", quantity),
    ("n_total_non_embedding", "total N", "no embeddings", quantity),
    ("tokens", "tokens", "", quantity),
    ("train_flops", "training", "FLOPs", power),
    ("granularity", "G", "granularity", number),
    ("activation_ratio", "A", "activation ratio", number),
    ("expansion", "expansion", "total/active", number),
    ("n_experts", "experts", "per layer", number),
    ("top_k", "top-k", "", number),
    ("n_shared_experts", "shared", "experts", number),
    ("d_model", "d_model", "", number),
    ("n_layers", "layers", "", number),
    ("load_imbalance", "imbalance", "max/mean", number),
    ("learning_rate", "rate", "", power),
    ("batch_tokens", "batch", "tokens", quantity),
    ("seed", "seed", "", number),
    ("wall_seconds", "time", "", duration),
)
"""Numeric columns of a runs table: name, title, unit, how it is written."""
HIDDEN = ("n_total_non_embedding", "batch_tokens")
"""Columns that have a range but would only widen the table of all runs."""
_Cells = tuple[Column, Callable[[dict[str, Any]], Cell]]


def all_runs(seen: RunsView) -> Table:
    """Every run, best loss first, failures last with their reasons."""
    frame, loss = seen.frame, seen.objective.column
    columns = [cells for cells in _run_columns(seen) if cells is not None]
    if loss in frame.columns:
        order = frame[loss].cast(pl.Float64).fill_nan(None)
        frame = frame.with_columns(order.alias(loss)).sort(loss, nulls_last=True, maintain_order=True)
    rows = [
        Row([write(row) for _, write in columns], "" if row.get("status") in ("finished", None) else "failed")
        for row in frame.head(MOST_ROWS).iter_rows(named=True)
    ]
    return Table([column for column, _ in columns], rows, sortable=True, tall=True)


def _run_columns(seen: RunsView) -> Iterator[_Cells | None]:
    yield _number(seen, "trial", "trial", "", number)
    yield _text(seen, "status")
    yield _number(seen, seen.objective.column, "loss", seen.objective.unit, fixed)
    for name, title, unit, write in NUMBERS:
        yield None if name in HIDDEN else _number(seen, name, title, unit, write)
    yield _text(seen, "router")
    yield _text(seen, "balancing")
    if seen.has("schedule_tilt", "schedule_bow", "schedule_wave"):
        yield Column("schedule"), lambda row: Cell(_schedule(row), _schedule(row))
    yield _text(seen, "message", title="reason", wrap=True)


def _number(seen: RunsView, name: str, title: str, unit: str, write: Format) -> _Cells | None:
    frame = seen.frame
    if name not in frame.columns or not frame[name].dtype.is_numeric() or frame[name].null_count() == frame.height:
        return None
    return Column(title, unit, numeric=True), lambda row: figure_cell(write(row[name]), row[name])


def _text(seen: RunsView, name: str, *, title: str = "", wrap: bool = False) -> _Cells | None:
    if name not in seen.frame.columns or not any(seen.frame[name].drop_nulls().cast(pl.String).to_list()):
        return None

    def cell(row: dict[str, Any]) -> Cell:
        text = "" if row[name] is None else str(row[name])
        return Cell(text, text, wrap=wrap)

    return Column(title or name), cell


def _schedule(row: dict[str, Any]) -> str:
    if row.get("n_moe_layers") == 0:
        return ""
    tilt, bow, wave = (float(row[f"schedule_{part}"] or 0) for part in ("tilt", "bow", "wave"))
    name = schedule_name(tilt, bow, wave)
    return f"{tilt:+.2f} {bow:+.2f} {wave:+.2f}" if name == FREE else name


def failures(seen: RunsView) -> Table | None:
    """Runs that did not finish, with what they cost and why; None where all did."""
    if "status" not in seen.frame.columns:
        return None
    lost = seen.frame.filter(pl.col("status") != "finished")
    if lost.is_empty():
        return None
    titles = ("trial", "status", "size", "tokens", "paid", "reason")
    head = [
        Column(title, "FLOPs" if title == "paid" else "", numeric=title not in ("status", "reason")) for title in titles
    ]
    rows = [
        [
            figure_cell(number(row.get("trial"))),
            Cell(str(row["status"])),
            figure_cell(quantity(row.get(seen.size_column or ""))),
            figure_cell(quantity(row.get("tokens"))),
            figure_cell(power(row.get("paid_flops"))),
            Cell(str(row.get("message") or "no reason was recorded"), wrap=True),
        ]
        for row in lost.iter_rows(named=True)
    ]
    return plain(head, rows)


def ranges(seen: RunsView) -> Table:
    """From where to where every variable of the usable runs goes."""
    rows = []
    for name, title, unit, write in NUMBERS:
        if seen.has(name) and seen.usable[name].dtype.is_numeric():
            values = seen.column(name)
            values = values[np.isfinite(values)]
            ends = [figure_cell(write(float(end))) for end in (values.min(), np.median(values), values.max())]
            words = f"{title} ({unit})" if unit else title
            rows.append([Cell(words), *ends, figure_cell(str(len(np.unique(values))))])
    titles = ("lowest", "median", "highest", "distinct values")
    return plain(["variable", *(Column(title, numeric=True) for title in titles)], rows)


def plain(head: Iterable[str | Column], rows: Iterable[Sequence[Cell]], chosen: int | None = None) -> Table:
    """A small table from cells; row ``chosen`` is marked."""
    columns = [Column(title) if isinstance(title, str) else title for title in head]
    return Table(columns, [Row(cells, "chosen" if index == chosen else "") for index, cells in enumerate(rows)])
