"""Progress of the search: the best loss at the largest size as trials came in, against what had been paid."""

import numpy as np
import polars as pl

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.theme import DATA, RECOMMENDED, blank, in_units, points

FEWEST = 3
"""Runs at the top of the ladder from which there is progress to see."""


def draw(data: ReportInput) -> list[Plot] | str:
    """Loss at the largest size and longest horizon over cumulative FLOPs in trial order, with the running best."""
    seen = data.view
    if not seen.has("trial", "paid_flops", vary=True):
        return "The runs have no trial numbers and costs, so the order of the search is not known."
    trials = seen.usable["trial"].to_list()
    rows = sorted((int(row) for row in seen.at_top if trials[row] is not None), key=lambda row: int(trials[row]))
    if len(rows) < FEWEST:
        return f"Fewer than {FEWEST} runs reached the largest size and its longest horizon: no progress to draw."
    paid = seen.frame.drop_nulls("trial").group_by("trial").agg(pl.col("paid_flops").sum()).sort("trial")
    spent = dict(zip(paid["trial"].to_list(), paid["paid_flops"].cum_sum().to_list(), strict=True))
    scale, title = in_units(max(spent.values()))
    x, y = [spent[trials[row]] / scale for row in rows], seen.loss[rows]
    figure = blank(360)
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        name="trial",
        marker=points(DATA, size=7),
        hovertext=[seen.hover[row] for row in rows],
        hoverinfo="text",
    )
    figure.add_scatter(
        x=x,
        y=np.minimum.accumulate(y),
        mode="lines",
        name="best so far",
        line={"shape": "hv", "color": RECOMMENDED, "width": 2},
        hoverinfo="skip",
    )
    figure.update_xaxes(title_text=f"training FLOPs paid so far ({title})", rangemode="tozero")
    figure.update_yaxes(title_text=seen.objective.axis)
    caption = (
        f"Only runs at the largest size ({seen.sizes.labels[-1]}) and its longest horizon. The search does not "
        "minimise this loss: it looks for the choice at the target, so a flat line is no sign of failure."
    )
    return [Plot(figure, "Progress at the largest size", caption, half=True)]


FIGURE = Figure(section="budget", rank=1, draw=draw)
