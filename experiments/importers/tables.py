"""Tables: CSV, JSONL (plain or gzip) or Parquet; several files are joined by columns that they share."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from moe_search.experiments.importers.source import Raw, Source
from moe_search.scaling.expressions import missing_column
from moe_search.scaling.runs import read_file
from moe_search.spaces.errors import InvalidInputError


def read(source: Source) -> Raw:
    """Return the table, or the tables joined one after the other to the first.

    Raises:
        InvalidInputError: a file cannot be read, or the files do not fit together.
    """
    first, *others = source.places
    frame, notes = read_file(Path(first)), list[str]()
    if others and not source.join:
        raise InvalidInputError(
            f"{len(source.places)} files are one table only when joined",
            where="--join",
            fix="--join KEY, a column that all of them have and that names the run",
        )
    if source.join and not others:
        raise InvalidInputError("there is nothing to join with one file", where="--join", fix="leave it out")
    for place in others:
        frame, note = _joined(frame, read_file(Path(place)), source.join, place)
        notes += note
    return Raw(frame, tuple(notes))


def _joined(
    frame: pl.DataFrame, other: pl.DataFrame, keys: Sequence[str], place: str
) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows of ``frame`` with the columns of their row in ``other``, and what was left out."""
    for key in keys:
        for table, where in ((frame, "--join"), (other, f"--join, {place}")):
            if key not in table.columns:
                raise missing_column(key, table.columns, where=where)
    repeated = other.height - other.select(keys).n_unique()
    if repeated:
        raise InvalidInputError(
            f"{repeated} rows of {place} have the same {', '.join(keys)} as another one, so that it is open which "
            "belongs to a run",
            where="--join",
            fix="put the table with several rows a run first, or join by more columns (--join A --join B)",
        )
    shared = [name for name in other.columns if name in frame.columns and name not in keys]
    other = other.with_columns(pl.col(key).cast(frame.schema[key], strict=False) for key in keys)
    joined = frame.join(other, on=keys, how="inner", suffix="\n", maintain_order="left")
    for name in shared:
        if not joined[name].eq_missing(joined[name + "\n"]).all():
            raise InvalidInputError(
                f"the column {name!r} of {place} differs from the one of the same name before it",
                where="--join",
                fix="rename it in one file, or join by it, too",
            )
    joined = joined.drop(name + "\n" for name in shared)
    if joined.is_empty():
        raise InvalidInputError(f"no row of {place} has a {', '.join(keys)} of the files before it", where="--join")
    lost = frame.height - joined.height
    note = f"left out, because {place} has no row with their {', '.join(keys)}: {lost} of {frame.height} rows"
    return joined, [note] if lost else []
