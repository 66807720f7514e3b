"""Polars SQL expressions of a table's own columns: ``--map``, ``--where``, ``--holdout`` and ``--cluster``.

Integer columns take part as float64: ``6 * n_total * tokens`` overflows 64-bit integers at 1e9 parameters.

An expression reads the table's columns and nothing else. Polars would open files and addresses that a subquery names
(``x IN (SELECT y FROM read_csv('...'))``), while it parses it; so there are no subqueries.
"""

import difflib
import re

import polars as pl
import polars.selectors as cs

from moe_search.spaces.errors import InvalidInputError

SHOWN_COLUMNS = 20
"""Of a table, in an error."""
SHORTEST_PART = 3
"""Letters of a name that say something when found within another."""
IDENTIFIER = re.compile(r"[^\W\d]\w*")
QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
LONGEST_EXPRESSION = 8000
"""Characters; Polars' parser recurses, and one that is nested tens of thousands deep ends the process."""
SUBQUERY = re.compile(r"\bselect\b|\(\s*from\b|\b(?:union|except|intersect)\b.*\bfrom\b|/\*", re.IGNORECASE)
"""How a query within an expression begins, or can be hidden; within quotes too, which could be forged."""
GROUPED_NUMBER = re.compile(r"(?<![\w.])\d+(?:_\d+)+")


def _checked(expression: str, where: str) -> str:
    """Return the expression on one line, where no comment can hide what follows it.

    Raises:
        InvalidInputError: it is a query, or too long to be parsed.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise InvalidInputError(
            f"the expression has {len(expression)} characters",
            where=where,
            allowed=f"up to {LONGEST_EXPRESSION}",
            fix="map a part of it to a column first",
        )
    line = " ".join(expression.splitlines())
    if found := SUBQUERY.search(line):
        raise InvalidInputError(
            f"{found[0]!r} begins a query, and an expression reads nothing but the table's columns",
            where=where,
            allowed="a Polars SQL expression without SELECT, FROM and comments",
            fix="rename the column or value if that is its name",
        )
    return line


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
        InvalidInputError: it does not parse, is a query, names a column that is not there, or cannot be computed.
    """
    checked = _checked(expression, where)
    try:
        parsed = pl.sql_expr(_without_grouping(checked)).alias("value")
        column = frame.with_columns(cs.integer().cast(pl.Float64)).select(parsed)
    except pl.exceptions.ColumnNotFoundError as error:
        name = _named_column(str(error))
        raise missing_column(name, frame.columns, where=where, fix=_quoting(name, expression, frame.columns)) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as error:
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


def missing_column(name: str, columns: list[str], *, where: str, fix: str = "") -> InvalidInputError:
    """Return the error for a column that is not there, with the columns there are and the nearest of them.

    Args:
        name: the column.
        columns: those of the table.
        where: who asks for it.
        fix: what to do, if that is known better than the nearest name.
    """
    shown = ", ".join(repr(column) for column in columns[:SHOWN_COLUMNS])
    more = f" and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
    nearest = nearest_column(name, columns)
    return InvalidInputError(
        f"there is no column {name!r}",
        where=where,
        allowed=f"the table has {shown}{more}",
        fix=fix or (as_written(nearest) if nearest is not None else ""),
    )


def nearest_column(name: str, columns: list[str]) -> str | None:
    """Return the column whose name is nearest, None if none is near: capitals, spaces and signs count for nothing."""
    by_folded = {_folded(column): column for column in reversed(columns)}
    wanted = _folded(name)
    close = difflib.get_close_matches(wanted, by_folded, n=1, cutoff=0.6)
    inside = [folded for folded in by_folded if len(wanted) >= SHORTEST_PART and wanted in folded]
    found = close or sorted(inside, key=len)
    return by_folded[found[0]] if found else None


def as_written(column: str) -> str:
    """Return a column's name as it stands in an expression: in double quotes where it is no plain word."""
    return column if IDENTIFIER.fullmatch(column) else f'"{column}"'


def as_option(option: str, value: str) -> str:
    """Return an option of the command as it is typed into a shell."""
    return f"{option} '{value}'" if "'" not in value else option + ' "' + value.replace('"', '\\"') + '"'


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _quoting(name: str, expression: str, columns: list[str]) -> str:
    """Say how to quote, where a missing column is a name without its quotes or a text in the wrong ones."""
    bare = [column for column in columns if not IDENTIFIER.fullmatch(column) and column in expression]
    if bare and f'"{bare[0]}"' not in expression:
        return f'"{bare[0]}", in double quotes, because the name is no plain word'
    if f'"{name}"' in expression and nearest_column(name, columns) is None:
        return f"'{name}', in single quotes, if it is a text: names of columns stand in double quotes"
    return ""


def _named_column(message: str) -> str:
    """The first quoted name in a Polars message: the column that it did not find."""
    parts = message.split('"')
    return parts[1] if len(parts) > 2 else message.splitlines()[0]
