"""Profile likelihood: how much worse the fit becomes when one parameter is held; one panel a parameter.

The bootstrap interval lies behind the curve. The two ask the same question in different ways; where they disagree, the
curve shows why: a flat floor, a bound, a second basin.
"""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from moe_search.scaling.fitted import Estimate, Fit
from moe_search.scaling.law import Parameter
from moe_search.scaling.profiles import Profile
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.equation import short
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import number, ticks
from moe_search.scaling.report.theme import DATA, INK, MUTED, band, blank

MOST = 4
"""Laws that are drawn, the one in use first; the JSON has all."""
COLUMNS = 4
PANEL = 190
TOP = 2.4
"""Height of a panel in thresholds: what is further up is ruled out anyway."""
LOGARITHMIC = 4.0
"""Ratio of a positive parameter's ends from which its axis is logarithmic."""
MOST_TICKS = 3


def draw(data: ReportInput) -> list[Plot] | str:
    """Small panels, one figure a law; the likelihood ratio over the values of each parameter."""
    if not data.laws:
        return "No law was fitted, so there is no likelihood to profile."
    drawn = [_law(fit) for fit in data.laws[:MOST] if fit.profiles]
    return drawn or "The likelihood of the fits was not profiled, or all their parameters are withheld."


def _law(fit: Fit) -> Plot:
    profiles = fit.profiles
    height = -(-len(profiles) // COLUMNS)
    figure = make_subplots(
        rows=height, cols=COLUMNS, shared_yaxes="all", horizontal_spacing=0.035, vertical_spacing=0.34 / height
    )
    figure.update_layout(blank(60 + PANEL * height, legend=False).layout)
    for place, one in enumerate(profiles):
        row, column = divmod(place, COLUMNS)
        parameter = fit.law.parameters[fit.law.index(one.name)]
        _panel(figure, one, parameter, fit.parameters[one.name], {"row": row + 1, "col": column + 1})
    top = TOP * profiles[0].threshold
    figure.update_yaxes(range=[0, top], nticks=4)
    figure.update_yaxes(title_text="likelihood ratio", col=1)
    law = fit.law.name.replace("_", " ")
    caption = (
        "Each curve holds one parameter at the value below it and fits all others again: how much worse the objective "
        "becomes, twice the difference in units of the residuals' scale. "
        f"Under the dotted line ({number(profiles[0].threshold)}) lies the 95 % interval of the profile; the band is "
        "that of the resamples, as far as the panel shows; the line in it is the estimate. A parabola: a parameter "
        "that the runs determine. A flat curve, or one that leaves at a bound: one that they leave open."
    )
    open_ends = [one.name for one in profiles if one.low is None or one.high is None]
    if open_ends:
        caption += f" Without an end on some side: {', '.join(open_ends)}."
    withheld = [name for name, estimate in fit.parameters.items() if estimate.value is None]
    if withheld:
        caption += f" Not drawn, because withheld: {', '.join(withheld)}."
    return Plot(figure, f"Profile likelihood of {law}", caption)


def _panel(figure: go.Figure, one: Profile, parameter: Parameter, estimate: Estimate, place: dict[str, int]) -> None:
    x, y = one.values, one.statistic
    top = TOP * one.threshold
    if estimate.low is not None and estimate.high is not None:
        low, high = max(estimate.low, float(x[0])), min(estimate.high, float(x[-1]))
        figure.add_scatter(x=[low, high, high, low], y=[0, 0, top, top], **band(DATA), **place)
    figure.add_scatter(
        x=x[[0, -1]],
        y=[one.threshold] * 2,
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        **place,
    )
    figure.add_scatter(
        x=[estimate.value] * 2,
        y=[0, top],
        mode="lines",
        line={"color": DATA, "width": 1},
        hoverinfo="skip",
        **place,
    )
    name = short(one.name)
    figure.add_scatter(
        x=x,
        y=np.maximum(y, 0.0),
        mode="lines",
        line={"color": INK, "width": 1.8},
        hovertext=[
            f"{name} {number(float(value), 4)}: {number(float(height), 3)}" for value, height in zip(x, y, strict=True)
        ],
        hoverinfo="text",
        **place,
    )
    left, right = float(x[0]), float(x[-1])
    axis: dict[str, object] = {"title_text": name, "range": [left, right], "nticks": MOST_TICKS, "tickangle": 0}
    if parameter.transform == "log" and right > LOGARITHMIC * left:
        positions, labels = ticks(left, right, most=MOST_TICKS, write=number)
        axis |= {"type": "log", "range": [float(np.log10(left)), float(np.log10(right))]}
        axis |= {"tickmode": "array", "tickvals": positions, "ticktext": labels}
    figure.update_xaxes(**axis, **place)


FIGURE = Figure(section="estimates", rank=1, draw=draw)
