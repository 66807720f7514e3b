"""All runs: held-out loss against what the run cost, with the controls and the frontier of best runs."""

import numpy as np

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import count
from moe_search.scaling.report.theme import INK, MUTED, blank, flops_axis, points, sequence

CONTROLS = {"dense": "diamond-open", "random router": "x-thin-open"}


def draw(data: ReportInput) -> list[Plot] | str:
    """Scatter of the loss over FLOPs, one colour a size, the frontier as steps."""
    seen = data.view
    if not seen.has("train_flops"):
        return "The table has no training FLOPs, so runs cannot be placed by cost."
    flops, loss = seen.column("train_flops"), seen.loss
    figure = blank(460)
    colors = sequence(len(seen.sizes.labels))
    for index, label in enumerate(seen.sizes.labels):
        rows = np.flatnonzero((seen.sizes.index == index) & (seen.kinds == "searched"))
        if len(rows):
            figure.add_scatter(
                x=flops[rows],
                y=loss[rows],
                mode="markers",
                name=label,
                marker=points(colors[index], size=9),
                hovertext=[seen.hover[row] for row in rows],
                hoverinfo="text",
            )
    for kind, symbol in CONTROLS.items():
        rows = np.flatnonzero(seen.kinds == kind)
        if len(rows):
            figure.add_scatter(
                x=flops[rows],
                y=loss[rows],
                mode="markers",
                name=f"{kind} (control)",
                marker={"symbol": symbol, "size": 10, "color": INK, "line": {"width": 1.8, "color": INK}},
                hovertext=[seen.hover[row] for row in rows],
                hoverinfo="text",
            )
    best = np.minimum.accumulate(loss)
    figure.add_scatter(
        x=flops,
        y=best,
        mode="lines",
        line={"shape": "hv", "color": MUTED, "width": 1.5, "dash": "dot"},
        name="best so far",
        hoverinfo="skip",
    )
    figure.update_xaxes(**flops_axis(list(flops)))
    figure.update_yaxes(title_text=seen.objective.axis)
    lost = seen.frame.height - seen.usable.height
    caption = f"Colour: {seen.size_words}. " if seen.size_words else ""
    caption += "Dotted: the lowest loss that any run of at most that cost reached. Hover for the full design."
    caption += f" Not drawn: {count(lost, 'run')} without a usable loss or size (see all runs)." if lost else ""
    return [Plot(figure, "Every finished run", caption)]


FIGURE = Figure(section="cost", rank=0, draw=draw)
