"""Somebody else's runs into the runs table: read, mapped, checked, written; everything that was done is said."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from moe_search.experiments.importers import Source, get_importer
from moe_search.scaling.columns import mapping_from
from moe_search.scaling.expressions import evaluate
from moe_search.scaling.fit import objective_column
from moe_search.scaling.runs import PER_DOMAIN, SCHEMA, map_runs, write_runs
from moe_search.scaling.table_checks import loss_mapping, table_warnings, without_repeats
from moe_search.search.redacting import redacted
from moe_search.spaces.errors import InvalidInputError

STEPS = ("step", "_step", "Step")
"""What a column of steps is called, here and by Weights & Biases."""
OPTION_OF = {"join": "--join", "experiments": "--experiment"}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a table."""

    source: str
    output: str
    rows_read: int
    rows: int
    mapped: Mapping[str, str]
    """Our column to the expression that it was mapped from."""
    recognised: tuple[str, ...]
    """Columns that already had our name."""
    derived: tuple[str, ...]
    carried: tuple[str, ...]
    """Columns of the source that are written as they are."""
    dropped: Mapping[str, int]
    """Reason to the number of rows."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``import --json`` prints."""
        return {
            "source": self.source,
            "output": self.output,
            "rows_read": self.rows_read,
            "rows": self.rows,
            "mapped": dict(self.mapped),
            "recognised": list(self.recognised),
            "derived": list(self.derived),
            "carried": list(self.carried),
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def import_runs(
    kind: str,
    source: Source,
    output: Path,
    *,
    mapping: Mapping[str, str],
    where: str | None = None,
    last_of: str | None = None,
    step: str | None = None,
) -> Imported:
    """Write the runs of a source as a runs table, with our columns first.

    Args:
        kind: name of an importer.
        source: where the runs are.
        output: the Parquet file; written whole or not at all.
        mapping: our column to a Polars SQL expression, evaluated in order.
        where: condition on the rows that are kept.
        last_of: what names the run of a row in a table of curves; of each the row with the largest step is kept.
        step: the step of a row; None: the column ``step`` (or ``_step``, ``Step``).

    Raises:
        InvalidInputError: an option that the source does not have, or a table that cannot be used.
        ResourceError: the source does not answer, or the file cannot be written.
    """
    importer = get_importer(kind)
    for field, option in OPTION_OF.items():
        if getattr(source, field) and field not in importer.options:
            raise InvalidInputError(f"{importer.title} has nothing for it", where=option, fix="leave it out")
    if output.suffix != ".parquet":
        raise InvalidInputError(
            f"a runs table is Parquet, not {output.name!r}", where="-o", fix=f"{output.stem}.parquet"
        )
    raw = importer.read(source)
    place = ", ".join(map(redacted, source.places))
    table = map_runs(raw.frame, source=place, mapping=mapping, where=where)
    frame, dropped = table.frame, {}
    if frame.height < raw.frame.height:
        dropped[f"--where {where}"] = raw.frame.height - frame.height
    if last_of is not None:
        kept = _last_steps(frame, last_of, step or next((name for name in STEPS if name in frame.columns), STEPS[0]))
        dropped[f"not the last step of its {last_of}"] = frame.height - kept.height
        frame = kept
    elif step is not None:
        raise InvalidInputError(
            "a step is of a run", where="--step", fix="--last-of COLUMN, the one that names the run"
        )
    frame, repeats = without_repeats(frame)
    if repeats:
        dropped["repeats another row exactly"] = repeats
    ours = [name for name in frame.columns if name in SCHEMA or name.startswith(tuple(PER_DOMAIN.values()))]
    frame = frame.select(*sorted(ours, key=_place), *(name for name in frame.columns if name not in ours))
    write_runs(frame, output)
    return Imported(
        source=place,
        output=str(output),
        rows_read=raw.frame.height,
        rows=frame.height,
        mapped=dict(mapping),
        recognised=tuple(name for name in raw.frame.columns if name in ours and name not in mapping),
        derived=tuple(name for name in frame.columns if name not in raw.frame.columns and name not in mapping),
        carried=tuple(name for name in raw.frame.columns if name not in ours and name not in mapping),
        dropped=dropped,
        notes=(*raw.notes, *table.notes),
        warnings=(*table.warnings, *_warnings(frame)),
    )


def _place(name: str) -> tuple[int, str]:
    """Order of our columns: as in the runs table, then those of the domains."""
    return (list(SCHEMA).index(name), "") if name in SCHEMA else (len(SCHEMA), name)


def _last_steps(frame: pl.DataFrame, last_of: str, step: str) -> pl.DataFrame:
    """Return, of the rows of each run, the one with the largest step."""
    runs = evaluate(frame, last_of, where="--last-of").cast(pl.String)
    steps = evaluate(frame, step, where="--step")
    if not steps.dtype.is_numeric():
        raise InvalidInputError(f"{step!r} is {steps.dtype}, not a number", where="--step")
    numbered = pl.DataFrame({"run": runs, "step": steps.cast(pl.Float64).fill_nan(None)}).with_row_index("row")
    last = numbered.sort("step", nulls_last=False, maintain_order=True).group_by("run").agg(pl.col("row").last())
    return frame[last["row"].sort().to_list()]


def _warnings(frame: pl.DataFrame) -> list[str]:
    """Return what is suspicious about the table, and what a fit of it would lack."""
    try:
        column = objective_column(frame, None)
    except InvalidInputError:
        return [f"there is no loss yet, in nats a token or, as bpb, in bits a byte: {loss_mapping(frame)}"]
    said = table_warnings(frame, column)
    if frame.height == 1:
        said.append("this is one run, and no law can be fitted to one: import all of them")
    if "tokens" not in frame.columns:
        said.append(f"there are no training tokens yet, which most laws read: {mapping_from(frame, 'tokens')}")
    return said
