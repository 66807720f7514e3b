"""The chart beside a result: one row a case, one mark a contestant, speed relative to the case's baseline.

It is an SVG file with no script and no font of its own, so that it shows wherever a picture shows.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from moe_search.experiments.benchmarks.measuring import Outcome
from moe_search.experiments.benchmarks.timing import Spread

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8B5A2B", "#000000")
"""Okabe and Ito (2008), which stay apart for colour-blind readers, and three more."""
RIGHT, WIDTH, ROW, TOP = 30, 960, 40, 134
LETTER = 6.6
"""Width of a letter of a label, on the wide side."""
LEGEND_WIDTH = 225
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def draw(outcomes: Sequence[Outcome], machine: dict[str, Any]) -> str:
    """Return the SVG text of all ``outcomes``."""
    names = list(dict.fromkeys(one.name for found in outcomes for one in found.measured if one.kind != "peak"))
    ours = {one.name for found in outcomes for one in found.measured if one.kind == "ours"}
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    speeds = [_speeds(found) for found in outcomes]
    values = [spread.median for row in speeds for spread in row.values()] or [1.0]
    low = max((tick for tick in TICKS if tick <= min(values) * 0.95), default=TICKS[0])
    high = min((tick for tick in TICKS if tick >= max(values) * 1.05), default=TICKS[-1])

    left = 34 + LETTER * max((len(found.label) for found in outcomes), default=0)
    per_line = (WIDTH - 40) // LEGEND_WIDTH
    top = TOP + 20 * ((len(names) - 1) // per_line)
    bottom = top + ROW * len(outcomes)

    def across(value: float) -> float:
        share = math.log(min(max(value, low), high) / low) / math.log(high / low)
        return left + share * (WIDTH - left - RIGHT)

    parts = [_text(20, 30, "Speed relative to the baseline of each case, forward and backward", size=17, weight=600)]
    baselines = sorted({found.case.baseline for found in outcomes})
    made = f"{machine['device']}, {machine['cpu_level']}; torch {machine['torch']}; {machine['date'][:10]}"
    meaning = f"Line at 100 %: {', '.join(baselines)}. Bars: quartiles over rounds. Filled: ours."
    parts += [_text(20, 50, made, size=12, fill="#555"), _text(20, 67, meaning, size=12, fill="#555")]
    for index, name in enumerate(names):
        column, line = 26 + LEGEND_WIDTH * (index % per_line), 96 + 20 * (index // per_line)
        parts += [_mark(column, line - 4, colours[name], filled=name in ours), _text(column + 12, line, name, size=12)]
    for tick in TICKS:
        if low <= tick <= high:
            x, strong = across(tick), tick == 1.0
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 12}" y2="{bottom}" '
                f'stroke="{"#333" if strong else "#ddd"}" stroke-width="{1.4 if strong else 1}"/>'
            )
            parts.append(_text(x, bottom + 18, f"{100 * tick:g} %", size=12, anchor="middle", fill="#555"))
    for index, (found, row) in enumerate(zip(outcomes, speeds, strict=True)):
        y = top + ROW * index + ROW / 2 - 6
        dtype = str(found.case.dtype).removeprefix("torch.")
        parts.append(_text(left - 14, y - 2, found.label, size=12, anchor="end"))
        parts.append(_text(left - 14, y + 12, f"{found.case.family}, {dtype}", size=10.5, anchor="end", fill="#777"))
        parts.append(f'<line x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
        for name in sorted(row, key=lambda name: name in ours):
            spread, colour = row[name], colours[name]
            parts.append(
                f'<line x1="{across(spread.low):.1f}" x2="{across(spread.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="{colour}" stroke-width="3" stroke-opacity="0.45"/>'
            )
            said = f"{name}: {100 * spread.median:.0f} % ({100 * spread.low:.0f} to {100 * spread.high:.0f})"
            parts.append(_mark(across(spread.median), y, colour, filled=name in ours, title=said))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 34}" width="{WIDTH}" '
        f'height="{bottom + 34}" font-family="system-ui, sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _speeds(found: Outcome) -> dict[str, Spread]:
    """Return every contestant's speed over the baseline's."""
    return {
        one.name: Spread(1.0, 1.0, 1.0) if one.name == found.case.baseline else one.ratios[found.case.baseline]
        for one in found.measured
        if one.kind != "peak" and (one.name == found.case.baseline or found.case.baseline in one.ratios)
    }


def _text(
    x: float, y: float, text: str, *, size: float, weight: int = 400, anchor: str = "start", fill: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _mark(x: float, y: float, colour: str, *, filled: bool, title: str = "") -> str:
    said = f"<title>{escape(title)}</title>" if title else ""
    inside = colour if filled else "#fff"
    radius = 5.5 if filled else 4.5
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle {place} fill="{inside}" stroke="{colour}" stroke-width="2">{said}</circle>'
