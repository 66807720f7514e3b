"""Every number of the report for machines, and the runs as a CSV file inside the page."""

import base64
import json
import math
from dataclasses import asdict
from typing import Any

import polars as pl

from moe_search.scaling.fitted import Fit
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.correlation import correlation
from moe_search.scaling.report.points import points
from moe_search.scaling.report.run_predictions import run_predictions

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
        "search": data.search.to_json() if data.search else None,
        "recommendation": data.recommendation.model_dump(mode="json") if data.recommendation else None,
        "effects": None if data.effects is None else [asdict(effect) for effect in data.effects],
        "points": [asdict(point) for point in points(data)],
        "settings": asdict(data.settings),
        "fits": [{**fit.to_json(), **_of_the_fit(fit)} for fit in data.laws],
        "refused": [{"law": law, "reason": reason} for law, reason in data.refused],
        "held_out": {
            "cut": comparison.holdout,
            "chosen": comparison.chosen,
            "reason": comparison.reason,
            "refused": [{"law": law, "reason": reason} for law, reason in comparison.refused],
            "fits": [fit.to_json() for fit in comparison.fits],
            "differences": [{**asdict(one), "tied": one.tied} for one in comparison.differences],
            "stack": comparison.stack.to_json() if comparison.stack else None,
            "stack_holdout": asdict(comparison.stack_holdout) if comparison.stack_holdout else None,
        }
        if comparison
        else None,
        "rolling": data.rolling if isinstance(data.rolling, str) else data.rolling.to_json(),
        "sensitivity": data.sensitivity if isinstance(data.sensitivity, str) else data.sensitivity.to_json(),
        "approaches": data.approaches if isinstance(data.approaches, str) else data.approaches.to_json(),
        "speedup": data.speedup if isinstance(data.speedup, str) else data.speedup.to_json(),
        "predictions": run_predictions(data).to_dict(as_series=False),
        "runs": data.frame.drop(PER_EXPERT, strict=False).to_dict(as_series=False),
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _of_the_fit(fit: Fit) -> dict[str, Any]:
    """What the page shows of a fit beyond its own JSON."""
    return {
        "equation": fit.law.equation,
        "convention": fit.law.convention,
        "source": fit.law.source,
        "gradient_norm": fit.gradient_norm,
        "resamples": len(fit.draws) if len(fit.draws) > 1 else 0,
        "residual_sd": fit.residual_sd,
        "profiles": [one.to_json() for one in fit.profiles],
        "correlation": {"parameters": list(fit.law.names), "matrix": correlation(fit).tolist()},
    }


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


def report_json(data: ReportInput) -> str:
    """Return every number of the page as a JSON document."""
    return json.dumps(numbers(data), allow_nan=False, indent=1, ensure_ascii=False) + "\n"


def report_csv(data: ReportInput) -> str:
    """Return :func:`~moe_search.scaling.report.run_predictions.run_predictions` as CSV."""
    return run_predictions(data).write_csv()


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
