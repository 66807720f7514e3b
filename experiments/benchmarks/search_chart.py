"""Regret against spend, one line a search, as an SVG file with no script and no font of its own."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from moe_search.experiments.benchmarks.chart import COLOURS

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 76, 52
LETTER = 14
"""Least distance of two labels."""


def draw(shares: Sequence[float], regrets: Mapping[str, Sequence[float]], *, highlighted: str, subtitle: str) -> str:
    """Return the SVG text.

    Args:
        shares: of the budget, ascending.
        regrets: mean normalised regret of each search at those; infinite values are left out.
        highlighted: the search whose line is thick.
        subtitle: what was searched.
    """
    finite = [value for line in regrets.values() for value in line if math.isfinite(value)]
    most = max(0.2, math.ceil(10 * max(finite, default=1.0)) / 10)

    def across(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * share / max(shares)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most

    parts = [
        _text(LEFT, 28, "Regret of the full-scale choice against spend", size=17, weight=600),
        _text(LEFT, 48, f"{subtitle}; 0: best design of the space, 1: its median", size=12, fill="#555"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "share of the budget spent", size=12, anchor="middle"),
    ]
    step = 0.1 if most <= 0.6 else 0.2 if most <= 1.4 else 0.5
    for tick in range(int(most / step) + 1):
        y = up(tick * step)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tick * step:.1f}", size=12, anchor="end", fill="#555"))
    for share in shares:
        parts.append(_text(across(share), HEIGHT - BOTTOM + 18, f"{share:.0%}", size=12, anchor="middle", fill="#555"))
    ends = sorted(regrets, key=lambda name: regrets[name][-1], reverse=True)
    label = -math.inf
    for name in ends:
        colour = COLOURS[list(regrets).index(name) % len(COLOURS)]
        points = [(across(s), up(v)) for s, v in zip(shares, regrets[name], strict=True) if math.isfinite(v)]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        width = 3.5 if name == highlighted else 1.6
        said = f"<title>{escape(name)}: {regrets[name][-1]:.2f}</title>"
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}">{said}</polyline>'
        )
        label = max(points[-1][1] + 4, label + LETTER)
        weight = 700 if name == highlighted else 400
        shown = f"{name} {regrets[name][-1]:.2f}"
        parts.append(_text(WIDTH - RIGHT + 10, label, shown, size=12, fill=colour, weight=weight))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _text(
    x: float, y: float, text: str, *, size: float, weight: int = 400, anchor: str = "start", fill: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
