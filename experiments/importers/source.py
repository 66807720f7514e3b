"""What an importer is given, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl

STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "finished": "finished",
        "failed": "truncated",
        "crashed": "truncated",
        "killed": "truncated",
        "preempted": "truncated",
        "preempting": "truncated",
        "running": "truncated",
        "pending": "truncated",
        "scheduled": "truncated",
    }
)
"""States of trackers to statuses of the runs table; an unknown state keeps its name, and fits leave the run out."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where runs are, and the options of the format."""

    places: tuple[str, ...]
    """Files, a folder or a URI, as the user wrote them."""
    join: tuple[str, ...] = ()
    """Columns by which several files are joined."""
    experiments: tuple[str, ...] = ()
    """Names of the experiments that are read; all when empty."""


@dataclass(frozen=True)
class Raw:
    """The runs as the source has them, a row a run."""

    frame: pl.DataFrame
    notes: tuple[str, ...] = ()
    """Sentences on what could not be taken over."""


def table_of(rows: Sequence[Mapping[str, object]]) -> Raw:
    """Return rows of names and plain values as a table: numbers where all values of a name are numbers, else text.

    Lists and other values that are not plain are left out, and named in a note.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, left_out = {}, []
    for name in names:
        values = [row.get(name) for row in rows]
        there = [value for value in values if value is not None]
        if not all(isinstance(value, bool | int | float | str) for value in there):
            left_out.append(name)
        elif there and all(_is_number(value) for value in there):
            columns[name] = pl.Series(name, [None if value is None else float(str(value)) for value in values])
        else:
            texts = [None if value is None else str(value) for value in values]
            columns[name] = pl.Series(name, texts, dtype=pl.String())
    note = f"left out, because their values are no numbers or text: {', '.join(left_out)}"
    return Raw(pl.DataFrame(columns), (note,) if left_out else ())


def _is_number(value: object) -> bool:
    """Say whether a value is a number or what trackers write for one that is not finite."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or str(value) in {"NaN", "Infinity", "-Infinity"}


def status_column(states: pl.Series) -> pl.Series:
    """Return a tracker's states as the statuses of the runs table."""
    lower = states.cast(pl.String).str.to_lowercase()
    return lower.replace(dict(STATUSES)).alias("status")
