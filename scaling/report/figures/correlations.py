"""How the estimates move together over the resamples: one heat map a law."""

import numpy as np

from moe_search.scaling.fitted import Fit
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.correlation import correlation
from moe_search.scaling.report.equation import short
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import number, signed
from moe_search.scaling.report.theme import CATEGORIES, PAPER, RECOMMENDED, blank

MOST = 4
"""Laws that are drawn, the one in use first; the JSON has all."""
CELL = 34
LABELLED = 10
"""Parameters up to which a cell holds its number."""


def draw(data: ReportInput) -> list[Plot] | str:
    """Correlation of every pair of parameters, one figure a law."""
    if not data.laws:
        return "No law was fitted, so no estimates move together."
    drawn = [fit for fit in data.laws[:MOST] if len(fit.draws) > 1 and len(fit.law.parameters) > 1]
    return [
        _law(fit) for fit in drawn
    ] or "The fits were not resampled, so it is not known how estimates move together."


def _law(fit: Fit) -> Plot:
    matrix = correlation(fit)
    names = [short(name) for name in fit.law.names]
    figure = blank(max(150 + CELL * len(names), 320), legend=False)
    texts = [[signed(float(value), 2) if np.isfinite(value) else "" for value in row] for row in matrix]
    figure.add_heatmap(
        x=names,
        y=names,
        z=[[float(value) if np.isfinite(value) else None for value in row] for row in matrix],
        zmin=-1,
        zmax=1,
        colorscale=[[0.0, CATEGORIES[0]], [0.5, PAPER], [1.0, RECOMMENDED]],
        text=texts,
        texttemplate="%{text}" if len(names) <= LABELLED else "",
        hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": "correlation", "side": "right"},
            "thickness": 12,
            "tickvals": [-1, -0.5, 0, 0.5, 1],
        },
    )
    figure.update_xaxes(title_text="parameter", type="category", showgrid=False)
    figure.update_yaxes(title_text="parameter", type="category", autorange="reversed", showgrid=False)
    law = fit.law.name.replace("_", " ")
    caption = (
        f"Correlation over {len(fit.draws)} resamples of the estimates as they are fitted (logarithms of positive "
        "parameters). Near one or minus one, two parameters have a value only together. Condition number of the fit "
        f"{number(fit.condition_number)}."
    )
    return Plot(figure, f"Correlation of the estimates of {law}", caption, half=len(names) <= LABELLED)


FIGURE = Figure(section="estimates", rank=0, draw=draw)
