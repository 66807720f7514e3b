"""Exports of Weights & Biases; the package itself is not needed.

What can be read:

- the CSV of the page of runs (*Export*): its columns as they are;
- JSON, a list of runs, or JSONL, a run a line, each with ``config``, ``summary``, ``name`` and ``state`` as its public
  API has them: flat columns ``config.d_model``, ``config.optimizer.lr``, ``summary.val/loss``;
- the CSV of its documentation's example, whose columns ``config`` and ``summary`` hold such objects as text;
- the CSV of a chart, with a column ``RUN - METRIC`` a run: rows of ``Name``, ``step`` and ``METRIC``.

``status`` follows from the run's state: what did not finish counts as truncated.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moe_search.experiments.importers.source import Raw, Source, status_column, table_of
from moe_search.scaling.runs import read_file
from moe_search.spaces.errors import InvalidInputError

OBJECTS = ("config", "summary")
NOT_LITERAL = re.compile(r"(?<=[:\[,(] )(nan|-?inf)\b")


def read(source: Source) -> Raw:
    """Return the runs of one export.

    Raises:
        InvalidInputError: it is more than one file, cannot be read, or is no export of runs.
    """
    if len(source.places) > 1:
        raise InvalidInputError("an export is one file", where="import wandb", fix=f"one of {', '.join(source.places)}")
    path = Path(source.places[0])
    raw = table_of([_flat(run) for run in _runs(path)]) if _suffix(path) in {".json", ".jsonl"} else _from_csv(path)
    state = next((name for name in ("state", "State") if name in raw.frame.columns), None)
    if state is None or "status" in raw.frame.columns:
        return raw
    return Raw(raw.frame.with_columns(status_column(raw.frame[state])), raw.notes)


def _suffix(path: Path) -> str:
    return next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "")


def _from_csv(path: Path) -> Raw:
    frame = read_file(path)
    if (chart := _from_chart(frame)) is not None:
        return chart
    objects = [name for name in OBJECTS if name in frame.columns and frame.schema[name] == pl.String()]
    if not objects:
        return Raw(frame)
    rows = []
    for number, row in enumerate(frame.iter_rows(named=True), start=2):
        parsed = {name: _object(row[name], f"{path}, row {number}, column {name!r}") for name in objects}
        rows.append(_flat({**{name: value for name, value in row.items() if name}, **parsed}))
    return table_of(rows)


def _from_chart(frame: pl.DataFrame) -> Raw | None:
    """Return the curves of an exported chart, a row a run and step; None where the table is none."""
    curves = [name for name in frame.columns if f"{name}__MIN" in frame.columns and " - " in name]
    if not curves:
        return None
    axis = frame.columns[0]
    parts = []
    for curve in curves:
        run, _, metric = curve.rpartition(" - ")
        values = frame[curve].cast(pl.Float64, strict=False).alias(metric)
        parts.append(pl.DataFrame([frame[axis].alias("step"), values]).select(pl.lit(run).alias("Name"), pl.all()))
    table = pl.concat(parts, how="diagonal_relaxed")
    return Raw(
        table.filter(pl.any_horizontal(pl.all().exclude("Name", "step").is_not_null())),
        (f"a chart of {len(curves)} curves over {axis!r}: a row is a run and step",),
    )


def _runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a JSON or JSONL file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidInputError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    try:
        if _suffix(path) == ".jsonl":
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
            content = content.get("runs", [content]) if isinstance(content, dict) else content
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(run, dict) for run in content):
        raise InvalidInputError(
            f"{path} holds no runs", allowed="a list of objects with config, summary, name and state, or one a line"
        )
    return content


def _object(text: str | None, where: str) -> Mapping[str, Any]:
    """Return an object that a CSV holds as JSON or as Python prints it; none for an empty cell."""
    if text is None or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        try:
            found = ast.literal_eval(NOT_LITERAL.sub("None", text))
        except (ValueError, SyntaxError) as error:
            raise InvalidInputError(f"{text[:40]!r} is no object", where=where, allowed="JSON") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{text[:40]!r} is no object", where=where, allowed="JSON")
    return found


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as names and values; ``config`` and ``summary`` may be objects or JSON as text."""
    named = {name.removeprefix("json_").removesuffix("_metrics"): value for name, value in run.items()}
    for name in OBJECTS:
        if isinstance(named.get(name), str):
            named[name] = _object(named[name], name)
    return dict(_leaves("", named))


def _leaves(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values; ``{"value": x}``, as configurations are stored, is x."""
    for name, value in content.items():
        if prefix and name == "_wandb":
            continue
        if isinstance(value, dict) and set(value) in ({"value"}, {"value", "desc"}):
            value = value["value"]  # noqa: PLW2901
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield prefix + str(name), value
