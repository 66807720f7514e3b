"""The laws as curves with 95 % bands through the runs: over tokens at each size, over size at each token horizon."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import at_scale, curve, expected, typical_row
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.runs_view import Groups, RunsView
from moe_search.scaling.report.theme import band, blank, points, quantity_axis, sequence
from moe_search.spaces.errors import InvalidInputError

STEPS = 40
"""Points of a curve."""
MOST_ENTRIES = 7
"""Legend entries that fit side by side; with more, those of the right panel stand below it."""
Hypothesis = Callable[[Array, Array], tuple[Array, Array, Array]]
"""Values along the axis and of the group (rows,) to the law's loss and its band, each (rows,)."""


def draw(data: ReportInput) -> list[Plot] | str:
    """One figure a law."""
    seen = data.view
    if not data.laws:
        return "No law was fitted."
    if not seen.size_column or not seen.has("tokens"):
        return "The table lacks sizes or tokens, so the laws cannot be drawn over them."
    plots: list[Plot] = []
    refused: list[str] = []
    for fit in data.laws:
        try:
            plots.append(_law(seen, fit))
        except InvalidInputError as error:
            refused.append(f"The law {fit.law.name} cannot be drawn: {error}.")
    return plots or " ".join(refused)


def _law(seen: RunsView, fit: Fit) -> Plot:
    design = typical_row(seen)
    sizes, tokens = seen.column(seen.size_column), seen.column("tokens")
    rows = np.flatnonzero(seen.kinds != "random router")
    there = expected(fit, at_scale(seen, design, sizes[rows], tokens[rows]))
    moved = np.full(len(sizes), np.nan)
    moved[rows] = seen.column(fit.objective_column)[rows] / expected(fit, seen.usable[rows.tolist()]) * there
    figure = make_subplots(cols=2, rows=1, shared_yaxes=True, horizontal_spacing=0.04)
    figure.update_layout(blank().layout)

    _panel(
        figure,
        1,
        groups=seen.sizes,
        x=tokens,
        loss=lambda grid, size: curve(fit, at_scale(seen, design, size, grid)),
        moved=moved,
        hover=seen.hover,
    )
    _panel(
        figure,
        2,
        groups=seen.horizons,
        x=sizes,
        loss=lambda grid, horizon: curve(fit, at_scale(seen, design, grid, horizon)),
        moved=moved,
        hover=seen.hover,
    )
    figure.update_xaxes(**quantity_axis(list(tokens), "training tokens", seen.horizons.centers), row=1, col=1)
    figure.update_xaxes(**quantity_axis(list(sizes), seen.size_words, seen.sizes.centers), row=1, col=2)
    figure.update_yaxes(title_text=seen.objective.axis, row=1, col=1)
    beside = len(seen.sizes.labels) + len(seen.horizons.labels) <= MOST_ENTRIES
    place = {"x": 0.52} if beside else {"y": -0.2, "yanchor": "top"}
    right = {**figure.layout.legend.to_plotly_json(), **place, "title": {"text": "tokens: ", "font": {"size": 12}}}
    left = {"title": {"text": "size: ", "font": {"size": 12}}}
    figure.update_layout(height=430 if beside else 480, legend=left, legend2=right)
    return Plot(
        figure, f"Law {fit.law.name.replace('_', ' ')}", f"{fit.law.equation} ({fit.law.convention.replace('`', '')})"
    )


def _panel(
    figure: go.Figure,
    column: int,
    *,
    groups: Groups,
    x: Array,
    loss: Hypothesis,
    moved: Array,
    hover: list[str],
) -> None:
    """Draw a curve, its band and its runs for every group."""
    grid = np.geomspace(x.min() / 1.15, x.max() * 1.15, STEPS)
    for index, color in enumerate(sequence(len(groups.labels))):
        place = {
            "row": 1,
            "col": column,
            "legendgroup": f"{column}-{index}",
            "legend": "legend" if column == 1 else f"legend{column}",
        }
        inside = np.flatnonzero((groups.index == index) & np.isfinite(moved))
        middle, low, high = loss(grid, np.full(STEPS, groups.centers[index]))
        figure.add_scatter(x=[*grid, *grid[::-1]], y=[*high, *low[::-1]], **band(color), **place)
        figure.add_scatter(
            x=grid,
            y=middle,
            mode="lines",
            line={"color": color, "width": 1.6},
            name=groups.labels[index],
            hoverinfo="skip",
            **place,
        )
        figure.add_scatter(
            x=x[inside],
            y=moved[inside],
            mode="markers",
            marker=points(color, size=6),
            showlegend=False,
            hovertext=[hover[row] for row in inside],
            hoverinfo="text",
            **place,
        )


FIGURE = Figure(section="laws", rank=0, draw=draw)
