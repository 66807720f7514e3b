"""Polars SQL expressions of a table's own columns: ``--map``, ``--where``, ``--holdout`` and ``--cluster``.

Integer columns take part as float64: ``6 * n_total * tokens`` overflows 64-bit integers at 1e9 parameters.
"""

import difflib
import re

import polars as pl
import polars.selectors as cs

from moe_search.spaces.errors import InvalidInputError

QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
GROUPED_NUMBER = re.compile(r"(?<![\w.])\d+(?:_\d+)+")


def _without_grouping(expression: str) -> str:
    """Return the expression with 1_500_000 written as 1500000: Polars reads the former as ``1 AS _500_000``."""
    parts = QUOTED.split(expression)
    parts[::2] = [GROUPED_NUMBER.sub(lambda number: number[0].replace("_", ""), part) for part in parts[::2]]
    return "".join(parts)


def evaluate(frame: pl.DataFrame, expression: str, *, where: str) -> pl.Series:
    """Return the column, as long as ``frame``, that ``expression`` describes.

    Args:
        frame: the table.
        expression: a Polars SQL expression, such as ``train_flops/(6*n_total)`` or ``"Model Size" > 1e9``.
        where: where the user wrote it, for the error (``"--map tokens"``).

    Raises:
        InvalidInputError: it does not parse, names a column that is not there, or cannot be computed.
    """
    try:
        parsed = pl.sql_expr(_without_grouping(expression)).alias("value")
        column = frame.with_columns(cs.integer().cast(pl.Float64)).select(parsed)
    except pl.exceptions.ColumnNotFoundError as error:
        raise missing_column(_named_column(str(error)), frame.columns, where=where) from error
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InvalidInputError(
            f"cannot evaluate {expression!r} ({reason})",
            where=where,
            allowed="a Polars SQL expression of the table's columns; names with spaces stand in double quotes",
            fix="for example train_flops/(6*n_total)",
        ) from error
    series = column["value"]
    if series.dtype.is_decimal():
        series = series.cast(pl.Float64)
    return series.new_from_index(0, frame.height) if len(series) == 1 != frame.height else series


def mask(frame: pl.DataFrame, expression: str, *, where: str) -> pl.Series:
    """Return the rows (true, false; null counts as false) for which the condition ``expression`` holds."""
    series = evaluate(frame, expression, where=where)
    if series.dtype != pl.Boolean:
        raise InvalidInputError(
            f"{expression!r} is {series.dtype}, not a condition",
            where=where,
            allowed="an expression that is true or false for every row",
            fix="a comparison such as train_flops > 1e21",
        )
    return series.fill_null(value=False)


def missing_column(name: str, columns: list[str], *, where: str) -> InvalidInputError:
    """Return the error for a column that is not there, with the columns there are and the nearest of them."""
    by_folded = {column.lower().replace(" ", "_"): column for column in columns}
    nearest = difflib.get_close_matches(name.lower().replace(" ", "_"), by_folded, n=1, cutoff=0.0)
    return InvalidInputError(
        f"there is no column {name!r}",
        where=where,
        allowed="the table has " + ", ".join(repr(column) for column in columns),
        fix=repr(by_folded[nearest[0]]) if nearest else "",
    )


def _named_column(message: str) -> str:
    """The first quoted name in a Polars message: the column that it did not find."""
    parts = message.split('"')
    return parts[1] if len(parts) > 2 else message.splitlines()[0]
