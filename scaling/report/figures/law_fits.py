"""The laws as curves with 95 % bands through the runs: over tokens at each size, over size at each token horizon."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    panels = [
        _Panel(
            "size: ",
            seen.sizes,
            tokens,
            quantity_axis(list(tokens), "training tokens (count)", seen.horizons.centers),
            lambda grid, size: curve(fit, at_scale(seen, design, size, grid)),
        ),
        _Panel(
            "tokens: ",
            seen.horizons,
            sizes,
            quantity_axis(list(sizes), seen.size_words.replace(", ", ",<br>"), seen.sizes.centers),
            lambda grid, horizon: curve(fit, at_scale(seen, design, grid, horizon)),
        ),
    ]
    panels = [panel for panel in panels if len(np.unique(panel.x)) > 1]
    if not panels:
        raise InvalidInputError("all runs have the same size and the same tokens")
    figure = make_subplots(cols=len(panels), rows=1, shared_yaxes=True, horizontal_spacing=0.04)
    figure.update_layout(blank().layout)
    beside = sum(len(panel.groups.labels) for panel in panels) <= MOST_ENTRIES
    legend = figure.layout.legend.to_plotly_json()
    for column, panel in enumerate(panels, start=1):
        _draw(figure, column, panel, moved, seen.hover)
        figure.update_xaxes(**panel.axis, row=1, col=column)
        place = {} if column == 1 else {"x": 0.56} if beside else {"y": -0.2, "yanchor": "top"}
        words = {"text": panel.legend, "font": {"size": 12}}
        figure.update_layout({_legend(column): {**legend, **place, "title": words}})
    figure.update_yaxes(title_text=seen.objective.axis, row=1, col=1)
    figure.update_layout(height=430 if beside or len(panels) == 1 else 480)
    return Plot(figure, f"Law {fit.law.name.replace('_', ' ')}", fit.law.convention.replace("`", "") + ".")


@dataclass(frozen=True)
class _Panel:
    """One axis to draw the law over, one curve a group of the other."""

    legend: str
    groups: Groups
    x: Array
    axis: Mapping[str, object]
    loss: Hypothesis


def _legend(column: int) -> str:
    return "legend" if column == 1 else f"legend{column}"


def _draw(figure: go.Figure, column: int, panel: _Panel, moved: Array, hover: list[str]) -> None:
    """Draw a curve, its band and its runs for every group."""
    groups, x = panel.groups, panel.x
    grid = np.geomspace(x.min() / 1.15, x.max() * 1.15, STEPS)
    for index, color in enumerate(sequence(len(groups.labels))):
        place = {
            "row": 1,
            "col": column,
            "legendgroup": f"{column}-{index}",
            "legend": _legend(column),
        }
        inside = np.flatnonzero((groups.index == index) & np.isfinite(moved))
        middle, low, high = panel.loss(grid, np.full(STEPS, groups.centers[index]))
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
