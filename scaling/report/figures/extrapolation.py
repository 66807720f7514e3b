"""How far the recommendation lies from the runs: the law between them, with its band, on one axis of compute."""

import numpy as np
import plotly.graph_objects as go
import polars as pl

from moe_search.scaling.fitted import Fit
from moe_search.scaling.recommendation import Choice
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import at_scale, curve, target_frame, typical_row
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import fixed, power
from moe_search.scaling.report.runs_view import RunsView
from moe_search.scaling.report.theme import DATA, RECOMMENDED, band, blank, flops_axis, points
from moe_search.spaces.errors import InvalidInputError

STEPS = 60
GROWING = (
    *("n_active", "n_active_non_embedding", "n_total", "n_total_non_embedding"),
    *("d_model", "d_expert", "tokens", "train_flops"),
)
"""Columns that grow on the way to the target; all others are the recommended design's."""


def draw(data: ReportInput) -> list[Plot] | str:
    """Runs, the law's path from the largest of them to the target, and the predicted loss with its interval."""
    seen, recommendation = data.view, data.recommendation
    if recommendation is None:
        return []  # the section says that there is none
    if not seen.has("train_flops"):
        return "The table has no training FLOPs, so the distance to the recommendation cannot be drawn."
    figure = blank(320)
    flops = seen.column("train_flops")
    figure.add_scatter(
        x=flops,
        y=seen.loss,
        mode="markers",
        name="runs",
        marker=points(DATA, size=5),
        hovertext=seen.hover,
        hoverinfo="text",
    )
    caption = "No law is drawn between them, because none was fitted to this table."
    if data.laws and seen.size_column and seen.has("tokens"):
        caption = _law(figure, seen, data.laws[0], recommendation.best)
    _target(figure, recommendation.best)
    figure.update_xaxes(**flops_axis([*flops, recommendation.best.train_flops]))
    figure.update_yaxes(title_text=seen.objective.axis)
    return [Plot(figure, "From the runs to the recommendation", caption)]


def _target(figure: go.Figure, best: Choice) -> None:
    figure.add_scatter(
        x=[best.train_flops],
        y=[best.loss],
        mode="markers",
        name="recommendation, 95 % interval",
        marker={"color": RECOMMENDED, "size": 12, "symbol": "star"},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [best.high95 - best.loss],
            "arrayminus": [best.loss - best.low95],
            "color": RECOMMENDED,
            "thickness": 2,
            "width": 4,
        },
        hovertext=[
            f"predicted {fixed(best.loss)}<br>{fixed(best.low95)} to {fixed(best.high95)}<br>"
            f"{power(best.train_flops)} FLOPs"
        ],
        hoverinfo="text",
    )


def _law(figure: go.Figure, seen: RunsView, fit: Fit, best: Choice) -> str:
    """Draw the law between the largest run's scale and the target; return the caption."""
    name = fit.law.name.replace("_", " ")
    try:
        path = _path(seen, best)
        middle, low, high = curve(fit, path)
    except InvalidInputError as error:
        return f"The law {name} cannot be drawn between them: {error}."
    x = path["train_flops"].to_numpy()
    figure.add_scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], **band(DATA))
    line = {"color": DATA, "width": 1.5}
    figure.add_scatter(x=x, y=middle, mode="lines", name=f"law {name}, recommended design", line=line, hoverinfo="skip")
    return (
        f"Line and band (95 %): the law {name} for the recommended design, from the scale of the largest run to the "
        "target. Nothing was observed between the runs and the star; the band holds only if the law's form does."
    )


def _path(seen: RunsView, best: Choice) -> pl.DataFrame:
    """The recommended design from the scale of the largest run to its own, all sizes growing as powers."""
    target = target_frame(best)
    largest = [int(np.argmax(seen.column("train_flops")))]
    start = at_scale(
        seen,
        {**typical_row(seen), **target.row(0, named=True)},
        seen.column(seen.size_column)[largest],
        seen.column("tokens")[largest],
    )
    shared = [name for name in start.columns if name in target.columns]
    path, growth = start[shared][[0] * STEPS], np.linspace(0, 1, STEPS)
    grown = [
        pl.Series(name, float(start[name][0]) * (float(target[name][0]) / float(start[name][0])) ** growth)
        for name in GROWING
        if name in shared
    ]
    return path.with_columns(grown)


FIGURE = Figure(section="answer", rank=0, draw=draw)
