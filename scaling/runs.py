"""The runs table: one Polars schema, one row a run, Parquet on disk.

It is the only thing that passes between training and fitting, so that somebody else's CSV enters by a column mapping.
A value that a run keeps per domain is a column per domain: ``weight/<domain>``, ``loss/<domain>``, ``bpb/<domain>``,
``epochs/<domain>``; null where the run does not know the domain, which is not the same as a weight of 0.
"""

import csv
import gzip
import io
import os
import types
import typing
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import polars as pl
import polars.selectors as cs

from moe_search.scaling.columns import not_numbers, numbers_of
from moe_search.scaling.expressions import evaluate, mask
from moe_search.scaling.table_checks import mapping_warnings
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.run import Run

PER_DOMAIN: Final = types.MappingProxyType(
    {"mixture": "weight/", "epochs": "epochs/", "domain_loss": "loss/", "domain_bpb": "bpb/"}
)
"""Fields of ``Run`` that are spread over the domains, and the prefix of their columns."""


def _dtype(annotation: Any) -> pl.DataType:
    """The Polars type of one field of ``Run``: optional values are nullable columns, tuples are lists."""
    arguments = [a for a in typing.get_args(annotation) if a is not type(None) and a is not Ellipsis]
    match typing.get_origin(annotation):
        case typing.Union | types.UnionType | typing.Annotated:
            return _dtype(arguments[0])
        case typing.Literal:
            return pl.String()
        case origin if origin is tuple:
            return pl.List(_dtype(arguments[0]))
    return {int: pl.Int64(), float: pl.Float64(), str: pl.String()}[annotation]


SCHEMA: Final = pl.Schema(
    {name: _dtype(field.annotation) for name, field in Run.model_fields.items() if name not in PER_DOMAIN}
)
"""The columns that every runs table has, in the order of ``Run``; the per-domain columns (float64) follow them."""


@dataclass(frozen=True)
class RunsTable:
    """A table read from a file, and what was assumed about it."""

    frame: pl.DataFrame
    notes: tuple[str, ...]
    """Sentences for the user: what was derived, coerced or left out."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is suspicious about the mapping."""


def runs_to_frame(runs: Sequence[Run]) -> pl.DataFrame:
    """Return one row a run: ``SCHEMA``, then the per-domain columns of all domains that occur, sorted by domain."""
    rows = []
    domains: dict[str, set[str]] = {field: set() for field in PER_DOMAIN}
    for run in runs:
        row = {name: getattr(run, name) for name in SCHEMA}
        for field, prefix in PER_DOMAIN.items():
            values = dict(getattr(run, field).items())
            domains[field] |= values.keys()
            row |= {prefix + domain: value for domain, value in values.items()}
        rows.append(row)
    spread = {
        prefix + domain: pl.Float64() for field, prefix in PER_DOMAIN.items() for domain in sorted(domains[field])
    }
    return pl.from_dicts(rows, schema=pl.Schema({**SCHEMA, **spread}))


def frame_to_runs(frame: pl.DataFrame) -> list[Run]:
    """Return the runs of a frame made by :func:`runs_to_frame`; the round trip is exact.

    Raises:
        InvalidInputError: the table lacks a column that a run has (somebody else's table is fitted as it is).
    """
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise InvalidInputError(f"the table is not a complete runs table: it lacks {', '.join(missing)}")
    runs = []
    for row in frame.iter_rows(named=True):
        fields: dict[str, Any] = {name: row[name] for name in SCHEMA}
        for field, prefix in PER_DOMAIN.items():
            fields[field] = {
                name.removeprefix(prefix): value
                for name, value in row.items()
                if name.startswith(prefix) and value is not None
            }
        runs.append(Run.model_validate({**fields, "mixture": Mixture.model_validate(fields["mixture"])}))
    return runs


def concat(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Stack runs tables whose domains may differ."""
    return pl.concat(frames, how="diagonal_relaxed")


def write_runs(frame: pl.DataFrame, path: Path) -> None:
    """Write Parquet atomically: a reader sees the old table or the new one, never half of one.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                frame.write_parquet(file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from error


def read_runs(path: Path | str, *, mapping: Mapping[str, str] | None = None, where: str | None = None) -> RunsTable:
    """Read a table of runs: Parquet, CSV or JSONL, the last two plain or gzip.

    Args:
        path: the file.
        mapping: canonical column name to a Polars SQL expression of the table's columns, evaluated in this order, so
            that an expression may use the columns mapped before it.
        where: a condition; rows for which it is not true are left out. It sees the mapped columns.

    Returns:
        The frame and the notes. When they are absent and can be derived, ``n_active = n_total`` (a dense model),
        ``tokens = train_flops / 6 n_active`` and ``train_flops = 6 n_active tokens`` are added, and noted.

    Raises:
        InvalidInputError: no such file or column, a bad expression, text in a number, a loss that is not positive,
            or no row left.
    """
    return map_runs(read_file(Path(path)), source=str(path), mapping=mapping, where=where)


def map_runs(
    frame: pl.DataFrame, *, source: str, mapping: Mapping[str, str] | None = None, where: str | None = None
) -> RunsTable:
    """Give a table of anybody's our columns; what :func:`read_runs` does after reading.

    Args:
        frame: the table.
        source: where it is from, for errors.
        mapping: see :func:`read_runs`.
        where: see :func:`read_runs`.

    Raises:
        InvalidInputError: no such column, a bad expression, text in a number, a loss that is not positive, or no row
            left.
    """
    frame, notes = _numbers_from_text(frame)
    for name, expression in (mapping or {}).items():
        frame = frame.with_columns(evaluate(frame, expression, where=f"--map {name}").alias(name))
    _check_numbers(frame, source)
    frame, derived = _derive(frame)
    if where is not None:
        kept = frame.filter(mask(frame, where, where="--where"))
        if kept.is_empty():
            raise InvalidInputError(f"none of the {frame.height} rows of {source} meets {where!r}", where="--where")
        notes = [*notes, f"--where kept {kept.height} of {frame.height} rows: {where}"]
        frame = kept
    _check_losses(frame, source)
    return RunsTable(frame, (*notes, *derived), tuple(mapping_warnings(mapping or {})))


def read_file(path: Path) -> pl.DataFrame:
    """Return a Parquet, CSV or JSONL file (the last two plain or gzip) as it is.

    Raises:
        InvalidInputError: there is no such file, it is not valid, or it has no rows.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    try:
        match suffixes:
            case [".parquet"]:
                frame = pl.read_parquet(path, glob=False)
            case [".csv"] | [".tsv"]:
                frame = pl.read_csv(path, infer_schema_length=None, separator=_separator(path), glob=False)
            case [".jsonl"] | [".ndjson"]:
                with path.open("rb") as file:  # by name, Polars would take brackets in it for a pattern
                    frame = pl.read_ndjson(file, infer_schema_length=None)
            case _:
                raise InvalidInputError(
                    f"{path} is not a table that can be read",
                    allowed=".parquet, .csv, .tsv or .jsonl, the last three also as .gz",
                    fix="save it as CSV" if path.suffix.lower() in {".xlsx", ".xls", ".ods", ".json"} else "",
                )
    except FileNotFoundError as error:
        there = sorted(p.name for p in path.parent.glob("*") if p.is_file()) if path.parent.is_dir() else []
        raise InvalidInputError(f"there is no file {path}", allowed=", ".join(there[:20])) from error
    except (OSError, EOFError, zlib.error) as error:  # the latter two: a gzip file that is cut off or damaged
        raise InvalidInputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason, fix = str(error).strip().splitlines()[0], ""
        if suffixes[0] in {".csv", ".tsv"} and (ragged := _ragged(path, _separator(path))):
            reason, fix = ragged, "quote texts that hold a comma, and remove lines above the names"
        raise InvalidInputError(f"{path} is not a valid {suffixes[0][1:]} file: {reason}", fix=fix) from error
    if frame.is_empty():
        raise InvalidInputError(f"{path} has no rows")
    return frame


def _separator(path: Path) -> str:
    """What separates the names in the first line: a comma, or without one a semicolon or a tab.

    Raises:
        InvalidInputError: the line is not UTF-8 text.
    """
    with _opened(path) as file:
        header = file.readline()
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidInputError(f"{path} is not UTF-8 text", where="the first line", fix="save it as CSV in UTF-8")
    return next((sign for sign in (",", ";", "\t") if sign in text), ",")


def _ragged(path: Path, separator: str) -> str:
    """Say which line of a CSV has more fields than the first one has names; empty where none has."""
    with _opened(path) as file:
        lines = csv.reader(io.TextIOWrapper(file, errors="replace", newline=""), delimiter=separator)
        names = len(next(lines, []))
        with suppress(csv.Error):  # a zero byte, a field without an end: Polars has said what is wrong
            for fields in lines:
                if len(fields) > names:
                    return f"line {lines.line_num} has {len(fields)} fields, and the first line has {names} names"
    return ""


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _numbers_from_text(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Text columns of which every entry is a number (``1.2e9``, `` 3``, ``1,000``) become numbers."""
    found = list[tuple[str, str]]()
    texts = [name for name, dtype in SCHEMA.items() if dtype == pl.String()]
    for column in frame.select(cs.string() - cs.by_name(texts, require_all=False)):
        text = column.str.strip_chars().replace("", None)
        numbers = numbers_of(column)
        if numbers.null_count() == text.null_count() < len(text):
            frame = frame.with_columns(numbers.alias(column.name))
            commas = np.flatnonzero(text.str.contains(",", literal=True).fill_null(value=False).to_numpy())
            example = f" ({text[int(commas[0])]} as {numbers[int(commas[0])]:.15g})" if len(commas) else ""
            found.append((repr(column.name), example))
    if len(found) == 1:
        return frame, [f"column {found[0][0]} is text that holds numbers; it is read as numbers{found[0][1]}"]
    named = ", ".join(name + example for name, example in found)
    return frame, [f"columns {named} are texts that hold numbers; they are read as numbers"] if found else []


def _check_numbers(frame: pl.DataFrame, source: str) -> None:
    """A canonical number that is still text has an entry that is not a number: say which."""
    for column in frame.select(cs.string()):
        name = column.name
        if (name in SCHEMA and SCHEMA[name].is_numeric()) or name.startswith(tuple(PER_DOMAIN.values())):
            raise not_numbers(column, where=source)


def _derive(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Fill in what a dense table leaves out, and say so."""
    notes = []
    rules = (
        ("n_active", "n_total", pl.col("n_total"), "n_active = n_total is assumed (dense models)"),
        (
            "tokens",
            "train_flops",
            pl.col("train_flops") / (6.0 * pl.col("n_active")),
            "tokens = train_flops / (6 n_active) is assumed",
        ),
        (
            "train_flops",
            "tokens",
            6.0 * pl.col("n_active") * pl.col("tokens"),
            "train_flops = 6 n_active tokens is assumed",
        ),
    )
    for name, source, expression, note in rules:
        if name not in frame.columns and {source, *expression.meta.root_names()} <= set(frame.columns):
            frame = frame.with_columns(expression.cast(pl.Float64).alias(name))
            notes.append(f"there is no column {name}: {note}")
    return frame, notes


def _check_losses(frame: pl.DataFrame, source: str) -> None:
    for name in ("loss", "bpb"):
        if name in frame.columns and frame[name].dtype.is_numeric():
            bad = frame[name].is_not_null() & ~frame[name].is_nan() & ~(frame[name] > 0)
            if bad.any():
                raise InvalidInputError(
                    f"{bad.sum()} of {frame.height} rows have a {name} that is not positive (row "
                    f"{bad.arg_true()[0] + 1} is the first: {frame[name].filter(bad)[0]:g})",
                    where=f"{source}, column {name!r}",
                    allowed=f"{name} > 0",
                    fix=f"--map '{name}=-{name}' if it is a log likelihood"
                    if (frame[name].drop_nulls().drop_nans() < 0).all()
                    else f"--where '{name} > 0', which leaves such rows out",
                )
