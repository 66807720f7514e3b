"""The look of every figure: colours by name, axes, and nothing that draws attention to itself.

Colours are CSS variables (``var(--ink)``); the page's script puts their values in before it draws and again when the
reader's colour scheme changes, so figures follow light, dark and print without a second copy. The categorical colours
are those of Okabe and Ito (2008), which stay apart for colour-blind readers; vermilion is kept for the recommendation.
"""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from moe_search.scaling.report.numbers import power, quantity, ticks

INK, MUTED, LINE, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
RECOMMENDED = "var(--recommended)"
DATA = "var(--cat-0)"
CATEGORIES = tuple(f"var(--cat-{i})" for i in range(6))
HEAT = [[i / 4, f"var(--heat-{i})"] for i in range(5)]
"""Colour scale for a loss excess: strong is best, faint is worst."""
SEQUENCE_LENGTH = 6
MOST_RUNGS = 6


def sequence(n: int) -> list[str]:
    """Return ``n`` ordered colours, small to large (model sizes, depth)."""
    last = SEQUENCE_LENGTH - 1
    return [f"var(--seq-{round(i * last / max(n - 1, 1)) if n > 1 else last // 2})" for i in range(n)]


def blank(height: int = 400, *, legend: bool = True) -> go.Figure:
    """Return an empty figure in the page's style, legend above the plot so that it never covers data."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 36 if legend else 28, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13, "color": INK, "family": "inherit"},
        hoverlabel={"bgcolor": PAPER, "bordercolor": MUTED, "font": {"color": INK, "size": 12}, "align": "left"},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "font": {"size": 12}},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": INK},
    )
    return figure


def style_axes(figure: go.Figure) -> go.Figure:
    """Give all axes of a finished figure the page's thin lines."""
    common = {
        "showline": True,
        "linecolor": MUTED,
        "linewidth": 1,
        "gridcolor": LINE,
        "gridwidth": 1,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": MUTED,
        "tickfont": {"size": 12, "color": MUTED},
        "title_font": {"size": 13, "color": INK},
        "title_standoff": 10,
        "automargin": True,
    }
    figure.update_xaxes(**common)
    figure.update_yaxes(**common)
    return figure


def quantity_axis(
    values: Sequence[float], title: str, rungs: Sequence[float] = (), *, most: int = 8
) -> dict[str, object]:
    """A logarithmic axis over parameters or tokens, ticks written like the rest of the report (``0.5 M``).

    Args:
        values: what is drawn.
        title: of the axis, with its unit.
        rungs: the values that were tried; where they are few, the ticks stand there.
        most: ticks that fit.
    """
    if 1 < len(rungs) <= min(most, MOST_RUNGS):
        positions, labels = list(rungs), [quantity(rung, 2) for rung in rungs]
    else:
        positions, labels = ticks(min(values) / 1.3, max(values) * 1.3, most=most)
    return {"type": "log", "title_text": title, "tickmode": "array", "tickvals": positions, "ticktext": labels}


def flops_axis(values: Sequence[float], title: str = "training FLOPs", *, most: int = 8) -> dict[str, object]:
    """A logarithmic axis over FLOPs, ticks written like the rest of the report (``2e13``)."""
    positions, labels = ticks(min(values), max(values), most=most, write=lambda value: power(value, 1))
    return {"type": "log", "title_text": title, "tickmode": "array", "tickvals": positions, "ticktext": labels}


def in_units(largest: float) -> tuple[float, str]:
    """Return a power of ten to divide a linear axis by, and its name (``1e14``)."""
    scale = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    return scale, power(scale, 1)


def points(color: object, *, size: int = 8, symbol: str = "circle", opacity: float = 0.9) -> dict[str, object]:
    """A marker with a paper-coloured rim, so that overlapping points stay countable."""
    return {"color": color, "size": size, "symbol": symbol, "opacity": opacity, "line": {"color": PAPER, "width": 1}}


def band(color: str) -> dict[str, object]:
    """Style of an uncertainty band, one closed polygon: the page's script makes ``-soft`` colours translucent."""
    soft = color.removesuffix(")") + "-soft)"
    return {
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": soft,
        "hoverinfo": "skip",
        "showlegend": False,
    }
