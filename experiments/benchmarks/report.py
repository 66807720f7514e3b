"""A finished benchmark: as JSON, as tables on the screen, as a dated file with its chart."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from moe_search.experiments import numbers
from moe_search.experiments.benchmarks.chart import draw
from moe_search.experiments.benchmarks.measuring import SHORT, Measured, Outcome
from moe_search.experiments.workspace import write_text

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """What ``moe-search bench`` has found."""

    what: str
    """``kernels`` or ``step``."""
    machine: dict[str, Any]
    outcomes: Sequence[Outcome]
    scaling: dict[str, Any] | None = None
    """Of several processes at once."""
    prices: dict[str, Any] | None = None
    """What the table of measured shapes said of our steps, beside what they took."""

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "format": FORMAT,
            "what": self.what,
            "machine": self.machine,
            "cases": [_case(outcome) for outcome in self.outcomes],
            "scaling": self.scaling,
            "prices": self.prices,
        }

    def tables(self) -> Iterator[Table]:
        """Yield what comes after the tables of the cases (:func:`case_table`): prices, and processes side by side."""
        if self.prices is not None:
            yield _price_table(self.prices)
        if self.scaling is not None:
            table = Table(box=box.SIMPLE_HEAD, title="Processes of one step each", title_justify="left")
            for heading in ("processes", "tokens/s, all together", "times one", "by CPU time"):
                table.add_column(heading, justify="right")
            one, many = self.scaling["tokens_per_second_alone"], self.scaling["tokens_per_second_together"]
            table.add_row("1", f"{one:,.0f}", "1", "1")
            times = (f"{self.scaling[name]:.2f}" for name in ("times", "times_by_cpu_time"))
            table.add_row(str(self.scaling["processes"]), f"{many:,.0f}", *times)
            yield table

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write a dated JSON file and a chart beside it; return both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = self.machine["date"][:16].replace("-", "").replace(":", "")
        dtypes = "-".join(dict.fromkeys(str(one.case.dtype).removeprefix("torch.") for one in self.outcomes))
        base = folder / "-".join(part for part in (moment, self.what, dtypes) if part)
        data, chart = base.with_suffix(".json"), base.with_suffix(".svg")
        write_text(data, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")
        write_text(chart, draw(self.outcomes, self.machine))
        return data, chart


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "family": case.family,
        "shape": dict(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "tokens": case.tokens,
        "flops": case.flops,
        "baseline": case.baseline,
        "kept_bound": case.kept_bound,
        "facts": dict(outcome.facts),
        "contestants": [_row(one, outcome) for one in outcome.measured],
        "absent": dict(outcome.absent),
    }


def _row(one: Measured, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "rounds": one.rounds,
        "wall_seconds": one.wall.as_json(),
        "cpu_seconds": one.cpu.as_json(),
        "tokens_per_second": None if one.kind == "peak" else outcome.case.tokens / one.time.median,
        "flops_per_second": one.flops_per_second,
        "share_of_peak": one.share_of_peak,
        "kept_elements": one.kept,
        "error": one.error,
        "ratios": {name: spread.as_json() for name, spread in one.ratios.items()},
    }


def _price_table(prices: dict[str, Any]) -> Table:
    said = ", ".join(f"{whose} table ({which})" for which, whose in prices["tables"].items())
    table = Table(box=box.SIMPLE_HEAD, title=f"Training steps, and what {said} says", title_justify="left")
    for heading in ("shape", "tokens", "type"):
        table.add_column(heading)
    for heading in ("measured", "predicted", "predicted / measured"):
        table.add_column(heading, justify="right")
    for row in prices["rows"]:
        shape = ", ".join(f"{SHORT.get(name, name)} {value}" for name, value in row["shape"].items())
        cells = [shape, str(row["tokens"]), row["dtype"], f"{1e6 * row['measured_seconds_per_token']:.3g} us a token"]
        if row["predicted_seconds_per_token"] is not None:
            cells += [f"{1e6 * row['predicted_seconds_per_token']:.3g}", f"{row['predicted_over_measured']:.2f}"]
        table.add_row(*cells)
    if prices["median_miss"] is not None:
        table.caption = f"median miss {prices['median_miss']:.0%}, largest {prices['largest_miss']:.0%}"
    return table


def case_table(outcome: Outcome) -> Table:
    """Return the contestants of one case as a table."""
    case, facts = outcome.case, outcome.facts
    title = f"{case.family}: {outcome.label}; {str(case.dtype).removeprefix('torch.')}, {case.tokens} tokens"
    if "max_over_mean" in facts:
        title += f", hottest expert {facts['max_over_mean']:.1f} times the mean"
    title += f"; speed of {case.baseline}: 100 %"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("wall ms", "CPU ms", "quartiles", "speed", "GFLOP/s", "of peak", "tokens/s", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any(one.error is not None for one in outcome.measured):
        table.add_column("error", justify="right")
    for one in outcome.measured:
        relative = one.ratios.get(case.baseline)
        cells = [
            one.name,
            _milliseconds(one.wall.median),
            _milliseconds(one.cpu.median),
            f"{_milliseconds(one.time.low)} - {_milliseconds(one.time.high)}",
            "" if one.kind == "peak" else f"{100 * relative.median:.0f} %" if relative else "100 %",
            f"{one.flops_per_second / 1e9:,.0f}" if one.flops else "",
            "" if one.share_of_peak is None else f"{one.share_of_peak:.0%}",
            "" if one.kind == "peak" else numbers.count(case.tokens / one.time.median),
            _kept(one, case.kept_bound),
        ]
        if one.error is not None:
            cells.append(f"{one.error:.0e}")
        style = {"ours": "bold", "peak": "bright_black"}.get(one.kind, "")
        table.add_row(*cells, style=style)
    for name, reason in outcome.absent.items():
        table.add_row(name, style="bright_black")
        table.caption = "; ".join(filter(None, [str(table.caption or ""), f"{name}: {reason}"]))
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:,.0f}"


def _kept(one: Measured, bound: float | None) -> str:
    if one.kept is None or one.kind == "peak":
        return ""
    return f"{numbers.count(one.kept)}" + (f", {one.kept / bound:.0%}" if bound else "")
