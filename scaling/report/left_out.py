"""Which rows of the table no law was fitted to, and why: the first reason that holds."""

import polars as pl

from moe_search.scaling.censoring import BY_DEFAULT
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.numbers import count, quantity
from moe_search.scaling.report.tables import Cell, Column, Table, figure_cell, plain

ROW = "row"
"""Number of a row in the table, from 1, under which files and the page name it."""
MOST_LISTED = 8
"""Rows that are named for one reason."""


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the table with its row numbers in front; a column of that name gives way."""
    return frame.drop(ROW, strict=False).with_row_index(ROW, offset=1)


def reasons(data: ReportInput) -> pl.Series:
    """Return why each row (rows,) was left out; null for the rows that laws were fitted to."""
    frame, column = numbered(data.frame), data.view.objective.column
    if column not in frame.columns:
        return pl.Series([f"the table has no column {column}"] * frame.height, dtype=pl.String)
    others = [name for name in frame.columns if name != ROW]
    first = frame.unique(subset=others, keep="first", maintain_order=True)[ROW].implode()
    ended, router = (
        pl.col(name).cast(pl.String) if name in frame.columns else pl.lit("") for name in ("status", "router")
    )
    loss = pl.col(column).cast(pl.Float64, strict=False)
    known = loss.is_finite().fill_null(value=False)
    return frame.select(
        pl.when(~pl.col(ROW).is_in(first))
        .then(pl.lit("it repeats another row exactly"))
        .when((router == "random").fill_null(value=False))
        .then(pl.lit("its router is random: a control"))
        .when(ended.is_in(BY_DEFAULT).fill_null(value=False) & known)
        .then(pl.format("it was {}: its loss is a bound of the law, not an observation", ended))
        .when((~ended.is_in(["", "finished"])).fill_null(value=False))
        .then(pl.format("it did not finish ({})", ended))
        .when(~known)
        .then(pl.lit(f"it has no {column}"))
        .otherwise(None)
    ).to_series()


def left_out(data: ReportInput) -> Table | None:
    """One row a reason, with the rows that it holds for; None where every row was used."""
    why = reasons(data)
    found = numbered(data.frame).select(ROW, why.alias("why")).drop_nulls("why")
    if found.is_empty():
        return None
    rows = []
    for (reason,), group in found.group_by("why", maintain_order=True):
        numbers = group[ROW].to_list()
        named = ", ".join(map(str, numbers[:MOST_LISTED])) + (" ..." if len(numbers) > MOST_LISTED else "")
        rows.append([figure_cell(str(len(numbers))), Cell(str(reason), wrap=True), Cell(named)])
    return plain([Column("rows", numeric=True), "left out because", Column("which", "row numbers of the CSV")], rows)


def counted(data: ReportInput) -> str:
    """Return ``238 of 245 rows were fitted, each counted as one run``."""
    why, total = reasons(data), data.frame.height
    used = why.null_count()
    unit = data.settings.cluster
    words = f"resampled in units of {unit}" if unit else "each counted as one run"
    every = "all" if used == total else f"{used} of"
    return f"{every} {count(total, 'row')} were fitted, {words}" if total > 1 else f"{quantity(total)} row"
