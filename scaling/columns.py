"""Raw columns of a runs table, as the adaptors of laws ask for them."""

import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from moe_search.scaling.expressions import missing_column
from moe_search.scaling.law import Array
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import SUM_TOLERANCE


class MissingValuesError(InvalidInputError):
    """A column that a law reads has no finite number in some rows; a fit leaves such rows out.

    Args:
        column: the column.
        rows: how many rows.
        of: how many there are.
        law: who reads it.
    """

    def __init__(self, column: str, rows: int, of: int, law: str) -> None:
        self.column = column
        super().__init__(
            f"column {column!r} holds no finite number in {rows} of {of} rows",
            where=f"law {law}",
            allowed="positive numbers",
            fix=f"--where '{column} > 0 AND {column} < 1e99'",
        )


def not_numbers(column: pl.Series, *, where: str) -> InvalidInputError:
    """Return the error for a column that should hold numbers, with its first entry that is none."""
    name = column.name
    if column.dtype != pl.String:
        return InvalidInputError(f"column {name!r} holds {column.dtype}, not numbers", where=where)
    numbers = column.str.strip_chars().str.replace_all(",", "").cast(pl.Float64, strict=False)
    bad = column.filter(numbers.is_null() & column.is_not_null())
    return InvalidInputError(
        f"{json.dumps(bad[0]) if len(bad) else 'every entry'} is not a number",
        where=f"{where}, column {name!r}",
        fix=f"--map '{name}=TRY_CAST(\"{name}\" AS DOUBLE)' leaves such rows without a value",
    )


def positive(frame: pl.DataFrame, *names: str, law: str) -> Array:
    """Return the first of the columns ``names`` that the table has, as positive float64 (runs,).

    Raises:
        InvalidInputError: it has none of them, or the one it has holds a value that is not positive.
        MissingValuesError: it has one with empty rows, or rows that are not finite.
    """
    present = [name for name in names if name in frame.columns]
    if not present:
        raise missing_column(names[0], frame.columns, where=f"law {law}")
    name = present[0]
    if not frame[name].dtype.is_numeric():
        raise not_numbers(frame[name], where=f"law {law}")
    values = frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    missing = ~np.isfinite(values)
    if missing.any():
        raise MissingValuesError(name, int(missing.sum()), len(values), law)
    bad = values <= 0
    if bad.any():
        raise InvalidInputError(
            f"column {name!r} holds {values[bad][0]} in {bad.sum()} of {len(values)} rows",
            where=f"law {law}",
            allowed="positive numbers",
            fix=f"--where '{name} > 0'",
        )
    return values


def optional(frame: pl.DataFrame, *names: str, default: float, law: str) -> Array:
    """Like :func:`positive`, but a table without the column has ``default`` in every row (runs,)."""
    if any(name in frame.columns for name in names):
        return positive(frame, *names, law=law)
    return np.full(frame.height, default)


WEIGHT = "weight/"


def domain_names(frame: pl.DataFrame) -> tuple[str, ...]:
    """Return the domains of the table's ``weight/<domain>`` columns, sorted."""
    return tuple(sorted(name.removeprefix(WEIGHT) for name in frame.columns if name.startswith(WEIGHT)))


def relative_weights(frame: pl.DataFrame) -> Array:
    """Return the mixture (runs, domains) times the number of domains: 1 everywhere is the uniform mixture.

    A table without ``weight/<domain>`` columns has one domain. Rows whose weights do not sum to one are refused.
    """
    weights = mixture_weights(frame, domain_names(frame))
    return weights * weights.shape[1] if weights.shape[1] else np.ones((frame.height, 1))


def mixture_weights(frame: pl.DataFrame, domains: Sequence[str]) -> Array:
    """Return the weights (runs, domains) of these domains; a domain without a column has weight 0.

    Raises:
        InvalidInputError: the weights of a row do not sum to one.
    """
    if not domains:
        return np.empty((frame.height, 0))
    names = [WEIGHT + domain for domain in domains]
    absent = [pl.lit(0.0).alias(name) for name in names if name not in frame.columns]
    columns = [pl.col(name).cast(pl.Float64).fill_null(0.0) for name in names if name in frame.columns]
    weights: Array = frame.select(*columns, *absent).select(names).to_numpy()
    wrong = ~(np.abs(weights.sum(axis=1) - 1) < 10 * SUM_TOLERANCE) | (weights < 0).any(axis=1)
    if wrong.any():
        raise InvalidInputError(
            f"the mixture weights of {wrong.sum()} of {len(weights)} runs are not a mixture: the first sums to "
            f"{weights[wrong][0].sum():.4g}",
            where=", ".join(names),
            allowed="weights >= 0 that sum to 1",
        )
    return weights
