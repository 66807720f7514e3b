"""Iso-FLOP curves: at a fixed compute, the law's loss over the model size, with the runs of about that compute."""

import numpy as np
import plotly.graph_objects as go

from moe_search.scaling.fitted import Fit
from moe_search.scaling.law import Array
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import at_scale, curve, expected, flops_per_token, typical_row
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import power, quantity
from moe_search.scaling.report.runs_view import RunsView, group
from moe_search.scaling.report.theme import PAPER, RECOMMENDED, band, blank, points, quantity_axis, sequence
from moe_search.spaces.errors import InvalidInputError

STEPS = 60
BEYOND = 1.6
"""Factor by which a curve leaves the sizes of the runs of its compute."""
FLAT = 1e-4
"""Relative depth of the lowest point under the ends of a curve, below which it is no optimum."""


def draw(data: ReportInput) -> list[Plot] | str:
    """One figure a law."""
    seen = data.view
    if not data.laws:
        return "No law was fitted, so there are no iso-FLOP curves."
    if not seen.size_column or not seen.has("tokens", "train_flops"):
        return "The table lacks sizes, tokens or training FLOPs, so there are no iso-FLOP curves."
    if len(np.unique(seen.column("tokens"))) < 2:
        return "All runs were trained on the same number of tokens, so there is no choice to draw at a fixed compute."
    plots: list[Plot] = []
    refused: list[str] = []
    for fit in data.laws:
        try:
            plots.append(_law(seen, fit))
        except InvalidInputError as error:
            refused.append(f"The iso-FLOP curves of the law {fit.law.name} cannot be drawn: {error}.")
    return plots or " ".join(refused)


def _law(seen: RunsView, fit: Fit) -> Plot:
    design, sizes, flops = typical_row(seen), seen.column(seen.size_column), seen.column("train_flops")
    rows = np.flatnonzero(seen.kinds != "random router")
    groups = group(flops)
    level = np.array(groups.centers)[groups.index]

    def at(size: Array, compute: Array) -> tuple[Array, Array, Array]:
        return curve(fit, at_scale(seen, design, size, compute / flops_per_token(seen, size)))

    moved = np.full(len(sizes), np.nan)
    own = expected(fit, seen.usable[rows.tolist()])
    moved[rows] = seen.column(fit.objective_column)[rows] / own * at(sizes[rows], level[rows])[0]
    figure = blank(470)
    lowest: list[tuple[float, float, str]] = []
    for index, color in enumerate(sequence(len(groups.labels))):
        inside = np.flatnonzero((groups.index == index) & np.isfinite(moved))
        if not len(inside):
            continue
        compute = groups.centers[index]
        grid = np.geomspace(sizes[inside].min() / BEYOND, sizes[inside].max() * BEYOND, STEPS)
        middle, low, high = at(grid, np.full(STEPS, compute))
        _curve(figure, grid, (middle, low, high), color, f"{power(compute)} FLOPs")
        figure.add_scatter(
            x=sizes[inside],
            y=moved[inside],
            mode="markers",
            marker=points(color, size=7),
            showlegend=False,
            hovertext=[seen.hover[row] for row in inside],
            hoverinfo="text",
            legendgroup=power(compute),
        )
        best = int(np.argmin(middle))
        if 0 < best < STEPS - 1 and min(middle[0], middle[-1]) > middle[best] * (1 + FLAT):
            words = f"{quantity(float(grid[best]))} parameters are best at {power(compute)} FLOPs"
            lowest.append((float(grid[best]), float(middle[best]), words))
    _optima(figure, lowest)
    figure.update_xaxes(**quantity_axis(list(sizes), f"{seen.size_words} (count)"))
    figure.update_yaxes(title_text=seen.objective.axis)
    law = fit.law.name.replace("_", " ")
    caption = (
        "Runs are grouped by training FLOPs; each curve is the law at the middle of its group, with its 95 % band, "
        "for the design of the best run at the largest size. Points are observed losses, moved by the law from the "
        "run's own compute and design to the curve's, so that the distance to the curve is the run's residual. "
    )
    caption += (
        "Diamonds: the size with the least loss."
        if lowest
        else "No curve has its lowest point inside the sizes that were run, so that these runs show no best size."
    )
    return Plot(figure, f"Loss over size at fixed compute, law {law}", caption)


def _curve(figure: go.Figure, grid: Array, ends: tuple[Array, Array, Array], color: str, name: str) -> None:
    middle, low, high = ends
    figure.add_scatter(x=[*grid, *grid[::-1]], y=[*high, *low[::-1]], **band(color), legendgroup=name)
    line = {"color": color, "width": 1.6}
    figure.add_scatter(x=grid, y=middle, mode="lines", line=line, name=name, hoverinfo="skip", legendgroup=name)


def _optima(figure: go.Figure, lowest: list[tuple[float, float, str]]) -> None:
    if not lowest:
        return
    x, y, words = zip(*lowest, strict=True)
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        name="least loss",
        marker={"symbol": "diamond", "size": 11, "color": RECOMMENDED, "line": {"color": PAPER, "width": 1.5}},
        hovertext=words,
        hoverinfo="text",
    )


FIGURE = Figure(section="isoflop", rank=0, draw=draw)
