"""The held-out check: what each law, fitted to smaller runs only, predicted for the largest scale."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moe_search.scaling.holdout import Holdout
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import fixed, percent, signed, tidy
from moe_search.scaling.report.theme import DATA, MUTED, blank, points

MOST = 4
"""Laws that are drawn; the table above the figure has all."""


def draw(data: ReportInput) -> list[Plot] | str:
    """Predicted against observed loss with 95 % intervals, one panel a law, least error first."""
    judged = [(fit.law.name.replace("_", " "), holdout) for fit, holdout in data.held_out[:MOST]]
    if data.comparison and data.comparison.stack_holdout:
        judged.append(("stack of the tied", data.comparison.stack_holdout))
    if not judged:
        return "No runs were held out, so nothing is known about how far these laws extrapolate."
    figure = make_subplots(
        cols=len(judged),
        rows=1,
        shared_yaxes="all",
        shared_xaxes="all",
        horizontal_spacing=0.03,
        subplot_titles=[f"{name}<br>error {percent(holdout.mape / 100, 2)}" for name, holdout in judged],
    )
    figure.update_layout(blank(424, legend=False).layout, margin={"t": 76})
    figure.update_annotations(font={"size": 13})
    rows = [row for _, holdout in judged for row in holdout.predictions]
    left, right = _padded([row["observed"] for row in rows], 0.15)
    low, high = _padded([row[end] for row in rows for end in ("low_95", "high_95", "observed")], 0.03)
    for column, (_, holdout) in enumerate(judged, start=1):
        _panel(figure, column, holdout)
        figure.add_scatter(
            x=[left, right],
            y=[left, right],
            mode="lines",
            line={"color": MUTED, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            row=1,
            col=column,
        )
    figure.update_xaxes(range=[left, right], title_text="observed")
    figure.update_yaxes(range=[low, high])
    figure.update_yaxes(title_text=f"predicted ({data.view.objective.unit})", row=1, col=1)
    cut = f" Held out: {tidy(data.comparison.holdout)}." if data.comparison else ""
    caption = (
        f"Both in {data.view.objective.unit}. Error: mean absolute error. Bars: 95 % prediction intervals. On the "
        "dotted line a prediction is exact; above it the law is too pessimistic, below it too optimistic." + cut
    )
    return [Plot(figure, "Predicted against observed at the held-out scale", caption)]


def _panel(figure: go.Figure, column: int, holdout: Holdout) -> None:
    names = ("observed", "predicted", "low_95", "high_95")
    observed, predicted, low, high = (np.array([row[name] for row in holdout.predictions]) for name in names)
    figure.add_scatter(
        x=observed,
        y=predicted,
        mode="markers",
        marker=points(DATA, size=8),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - predicted,
            "arrayminus": predicted - low,
            "color": DATA,
            "thickness": 1,
            "width": 0,
        },
        hovertext=[
            f"observed {fixed(o)}<br>predicted {fixed(p)} ({signed(100 * (p / o - 1), 2)} %)<br>"
            f"95 % interval {fixed(below)} to {fixed(above)}"
            for o, p, below, above in zip(observed, predicted, low, high, strict=True)
        ],
        hoverinfo="text",
        row=1,
        col=column,
    )


def _padded(values: list[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = share * (high - low) or 0.01 * abs(high)
    return low - pad, high + pad


FIGURE = Figure(section="heldout", rank=0, draw=draw)
