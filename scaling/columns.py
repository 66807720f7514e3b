"""Raw columns of a runs table, as the adaptors of laws ask for them."""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import polars as pl

from moe_search.scaling.expressions import SHORTEST_PART, as_option, as_written, missing_column, nearest_column
from moe_search.scaling.law import Array
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import SUM_TOLERANCE

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "n_total": ("n_total", "total_params", "params", "parameters", "num_params", "model_size", "size", "N"),
        "n_active": (
            "n_active",
            "active_params",
            "activated_params",
            "params",
            "parameters",
            "model_size",
            "size",
            "N",
        ),
        "tokens": ("tokens", "train_tokens", "num_tokens", "tok", "gtok", "tokens_seen", "dataset_size", "D"),
        "train_flops": ("train_flops", "flops", "training_flop", "compute", "C"),
        "learning_rate": ("learning_rate", "lr", "peak_lr", "max_lr"),
        "batch_tokens": ("batch_tokens", "batch_size", "global_batch", "bs"),
        "loss": (
            *("val_loss", "validation_loss", "eval_loss", "test_loss", "loss", "cross_entropy", "nll"),
            *("perplexity", "ppl", "train_loss", "L"),
        ),
    }
)
"""What our columns are called elsewhere, the likeliest first."""
GROUPED: Final = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
DECIMAL_COMMA: Final = re.compile(r"[-+]?\d+,\d+")
SUFFIXED: Final = re.compile(r"([-+]?\d+(?:\.\d+)?)(\s*(?:[kmgbt]\w*|%))", re.IGNORECASE)
SUFFIXES: Final = MappingProxyType({"k": "1e3", "m": "1e6", "g": "1e9", "b": "1e9", "t": "1e12", "%": "0.01"})


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
        return InvalidInputError(
            f"column {name!r} holds {column.dtype}, not numbers",
            where=where,
            fix=f"--map '{name}=...' from another column",
        )
    rows = np.flatnonzero((numbers_of(column).is_null() & column.is_not_null()).to_numpy())
    if not len(rows):
        return InvalidInputError(f"column {name!r} has no entries", where=where, fix=f"--map '{name}=...'")
    text = column[int(rows[0])]
    count = f" (row {rows[0] + 1}, the first of {len(rows)} such rows)" if len(rows) > 1 else f" (row {rows[0] + 1})"
    return InvalidInputError(
        f"{json.dumps(text, ensure_ascii=False)} is not a number{count}",
        where=f"{where}, column {name!r}",
        allowed="numbers such as 2100000000, 2.1e9 or 2,100,000,000",
        fix=_number_fix(name, text, all_rows=len(rows) == column.len() - column.null_count()),
    )


def numbers_of(column: pl.Series) -> pl.Series:
    """Return the numbers that a column of texts holds, null where an entry is none: 1.2e9, `` 3``, 1,000."""
    text = column.str.strip_chars().replace("", None)
    grouped = text.str.contains(f"(?i)^{GROUPED.pattern}$")
    return text.zip_with(~grouped.fill_null(value=False), text.str.replace_all(",", "")).cast(pl.Float64, strict=False)


def _number_fix(name: str, text: str, *, all_rows: bool) -> str:
    """The mapping that makes numbers of such texts, or else leaves them without a value."""
    written, text = as_written(name), text.strip()
    suffix = SUFFIXED.fullmatch(text)
    if all_rows and suffix:
        number = f"CAST(REPLACE({written}, '{suffix[2]}', '') AS DOUBLE)"
        return as_option("--map", f"{name}={number} * {SUFFIXES[suffix[2].strip()[0].lower()]}")
    if DECIMAL_COMMA.fullmatch(text):
        return as_option("--map", f"{name}=CAST(REPLACE({written}, ',', '.') AS DOUBLE)")
    if all_rows:
        return f"--map '{name}=...' from a column of numbers"
    return as_option("--map", f"{name}=TRY_CAST({written} AS DOUBLE)") + " leaves such rows without a value"


def positive(frame: pl.DataFrame, *names: str, law: str) -> Array:
    """Return the first of the columns ``names`` that the table has, as positive float64 (runs,).

    Raises:
        InvalidInputError: it has none of them, or the one it has holds a value that is not positive.
        MissingValuesError: it has one with empty rows, or rows that are not finite.
    """
    present = [name for name in names if name in frame.columns]
    if not present:
        raise missing_column(names[0], frame.columns, where=f"law {law}", fix=mapping_from(frame, *names))
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


def mapping_from(frame: pl.DataFrame, *names: str) -> str:
    """Return the ``--map`` that gives one of our columns from what the table calls it, dots where that is open."""
    for name in names:
        if (found := usual_column(frame, name)) is not None:
            return as_option("--map", f"{name}={as_written(found)}")
    return as_option("--map", f"{names[0]}=...")


def usual_column(frame: pl.DataFrame, name: str) -> str | None:
    """Return the column of a table that goes by one of the usual names of ours, if there is one."""
    columns = [column for column in frame.columns if column not in USUAL_NAMES]
    short = {column.lower(): column for column in columns if len(column) < SHORTEST_PART}
    for usual in USUAL_NAMES.get(name, (name,)):
        found = short.get(usual.lower()) if len(usual) < SHORTEST_PART else nearest_column(usual, columns)
        if found is not None:
            return found
    return None


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
            fix=_weights_fix(names, weights[wrong].sum(axis=1)),
        )
    return weights


def _weights_fix(names: Sequence[str], sums: Array) -> str:
    """What makes mixtures of weights that do not sum to one."""
    first = f'"{names[0]}"'
    if np.allclose(sums, 100, rtol=0.02):
        return as_option("--map", f"{names[0]}={first} / 100") + ", and so for each, if they are percent"
    whole = " + ".join(f'"{name}"' for name in names)
    divided = as_option("--map", f"{names[0]}={first} / whole")
    return f"{as_option('--map', f'whole={whole}')} {divided}, and so for each"
