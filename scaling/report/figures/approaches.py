"""The best size at each compute, asked three ways: the minima that were found, lines through them, the law's own."""

import plotly.graph_objects as go

from moe_search.scaling.approaches import Approach, Approaches
from moe_search.scaling.report.approaches_table import with_interval
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import power, quantity
from moe_search.scaling.report.runs_view import SIZE_COLUMNS
from moe_search.scaling.report.theme import CATEGORIES, band, blank, flops_axis, points, quantity_axis

COLORS = {1: CATEGORIES[1], 2: CATEGORIES[2], 3: CATEGORIES[0]}
SYMBOLS = {1: "square", 2: "diamond"}


def draw(data: ReportInput) -> list[Plot] | str:
    """One line with its 95 % band an approach, over compute."""
    found = data.approaches
    if isinstance(found, str):
        return found
    known = [one for one in found.approaches if one.size_exponent.value is not None]
    if not known:
        return "None of the three approaches finds how the best size grows, so there is nothing to draw."
    figure = blank(460)
    for one in known:
        _approach(figure, one)
    splits = [split for one in known for split in one.splits if split.size.value is not None]
    figure.update_xaxes(**flops_axis([split.train_flops for split in splits]))
    sizes = [split.size.value for split in splits if split.size.value]
    figure.update_yaxes(**quantity_axis(sizes, f"best size ({SIZE_COLUMNS[found.size_column]})"))
    return [Plot(figure, "Best size over compute, by three approaches", _caption(found))]


def _approach(figure: go.Figure, one: Approach) -> None:
    color, name = COLORS[one.number], f"{one.number}: {one.name}"
    splits = [split for split in one.splits if split.size.value is not None]
    whole = [split for split in splits if split.size.low is not None]
    x = [split.train_flops for split in whole]
    ends = [*(split.size.high for split in whole), *(split.size.low for split in reversed(whole))]
    figure.add_scatter(x=[*x, *x[::-1]], y=ends, **band(color), legendgroup=name)
    figure.add_scatter(
        x=[split.train_flops for split in splits],
        y=[split.size.value for split in splits],
        mode="lines",
        name=name,
        legendgroup=name,
        line={"color": color, "width": 2},
        hovertext=[
            f"{name}<br>at {power(split.train_flops)} FLOPs<br>{with_interval(split.size)} parameters<br>"
            f"{with_interval(split.tokens)} tokens"
            for split in splits
        ],
        hoverinfo="text",
    )
    used = [group for group in one.groups if group.used]
    if used:
        figure.add_scatter(
            x=[group.train_flops for group in used],
            y=[group.size for group in used],
            mode="markers",
            showlegend=False,
            legendgroup=name,
            marker=points(color, size=9, symbol=SYMBOLS[one.number]),
            hovertext=[
                f"{name}<br>{group.runs} runs, {group.sizes} sizes, about {power(group.train_flops)} FLOPs<br>"
                f"{quantity(group.size)} parameters, {quantity(group.tokens)} tokens"
                for group in used
            ],
            hoverinfo="text",
        )


def _caption(found: Approaches) -> str:
    law = found.law.replace("_", " ")
    return (
        "Points: the best size of a group of runs of nearly equal compute, by Approach 1 the best run of a bin, by "
        f"Approach 2 the bottom of a parabola; lines go through them. Approach 3 is the law {law}. Bands: 95 % "
        "intervals of resampled runs. Every line ends at ten times the compute of the largest run."
    )


FIGURE = Figure(section="approaches", rank=0, draw=draw)
