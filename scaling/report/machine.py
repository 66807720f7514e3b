"""Every number of the report for machines, and the runs as a CSV file inside the page."""

import base64
import json
import math
from dataclasses import asdict
from typing import Any

import polars as pl

from moe_search.scaling.report.contents import ReportInput

FORMAT = 1
"""Version of the JSON block's layout."""
PER_EXPERT = "expert_load"
"""A list a layer of every run: megabytes for wide models, so it stays in the runs table and out of the page."""


def numbers(data: ReportInput) -> dict[str, Any]:
    """Return the content of the JSON block: plain values, no NaN."""
    comparison = data.comparison
    content = {
        "format": FORMAT,
        "title": data.title,
        "provenance": dict(data.provenance),
        "notes": list(data.notes),
        "objective": {"column": data.view.objective.column, "unit": data.view.objective.unit},
        "budget": asdict(data.budget) if data.budget else None,
        "recommendation": data.recommendation.model_dump(mode="json") if data.recommendation else None,
        "effects": None if data.effects is None else [asdict(effect) for effect in data.effects],
        "fits": [fit.to_json() for fit in data.laws],
        "held_out": {
            "cut": comparison.holdout,
            "chosen": comparison.chosen,
            "reason": comparison.reason,
            "refused": [{"law": law, "reason": reason} for law, reason in comparison.refused],
            "fits": [fit.to_json() for fit in comparison.fits],
        }
        if comparison
        else None,
        "runs": data.frame.drop(PER_EXPERT, strict=False).to_dict(as_series=False),
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case str() | int() | None:
            return value
    return str(value)


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no text in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def csv_base64(frame: pl.DataFrame) -> str:
    """Return the runs as base64 of a CSV file; lists become JSON text."""
    flat = frame.drop(PER_EXPERT, strict=False)
    lists = [name for name, dtype in flat.schema.items() if dtype.is_nested()]
    flat = flat.with_columns(
        pl.Series(name, [None if item is None else json.dumps(item) for item in flat[name].to_list()], dtype=pl.String)
        for name in lists
    )
    return base64.b64encode(flat.write_csv().encode()).decode()
