"""Expert load: how evenly the best large run uses its experts, and whether imbalance goes with loss."""

from html import escape

import numpy as np

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import percent
from moe_search.scaling.report.theme import CATEGORIES, MUTED, blank, points, sequence


def draw(data: ReportInput) -> list[Plot] | str:
    """Sorted load per layer of the best run at the largest scale; loss excess against imbalance over all runs."""
    plots = [plot for plot in (_sorted_load(data), _imbalance(data)) if plot is not None]
    return plots or "No run recorded the load of its experts."


def _sorted_load(data: ReportInput) -> Plot | None:
    seen = data.view
    if not seen.has("expert_load"):
        return None
    loads = seen.usable["expert_load"].to_list()
    usable = [row for row, layers in enumerate(loads) if layers is not None and any(len(layer) for layer in layers)]
    if not usable:
        return None
    # the largest size with a load, at its longest horizon, then the lowest loss
    row = max(usable, key=lambda r: (seen.sizes.index[r], seen.horizons.index[r], -seen.loss[r]))
    layers = [np.sort(np.asarray(layer, dtype=float))[::-1] for layer in loads[row] if len(layer)]
    figure = blank(380)
    for index, (color, load) in enumerate(zip(sequence(len(layers)), layers, strict=True)):
        figure.add_scatter(
            x=(np.arange(len(load)) + 0.5) / len(load),
            y=load / load.mean(),
            mode="lines",
            name=f"layer {index + 1}",
            line={"color": color, "width": 2},
            showlegend=len(layers) <= 8 or index in (0, len(layers) - 1),
            hovertemplate=f"MoE layer {index + 1} of {len(layers)}: %{{y:.2f}} × 1/E<extra>{len(load)} experts</extra>",
        )
    figure.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        title_text="expert, sorted by load (share of the layer's experts)", range=[0, 1], tickformat=".0%"
    )
    figure.update_yaxes(title_text="load (multiples of 1/E)", rangemode="tozero")
    caption = (
        f"The best run with a recorded load at the largest size ({seen.sizes.labels[seen.sizes.index[row]]} "
        f"{seen.size_words}) and its longest horizon, on held-out text; MoE layers counted from the input. "
        "1 is a perfectly even load; an expert at 0 is dead."
    )
    return Plot(figure, "Load of each layer's experts", caption, half=True)


def _imbalance(data: ReportInput) -> Plot | None:
    seen = data.view
    if not seen.has("load_imbalance", vary=True):
        return None
    imbalance, excess = seen.column("load_imbalance"), 100 * seen.excess
    kinds = [f"{r}, {b}" if b else r for r, b in zip(_words(data, "router"), _words(data, "balancing"), strict=True)]
    figure = blank(380)
    for index, kind in enumerate(sorted(set(kinds))):
        rows = [row for row, name in enumerate(kinds) if name == kind and np.isfinite(imbalance[row])]
        if rows:
            figure.add_scatter(
                x=imbalance[rows],
                y=excess[rows],
                mode="markers",
                name=escape(kind.replace("_", " ") or "unknown"),
                marker=points(CATEGORIES[index % len(CATEGORIES)], size=7),
                hovertext=[seen.hover[row] for row in rows],
                hoverinfo="text",
            )
    figure.update_xaxes(title_text="largest load / mean load (mean over layers)")
    figure.update_yaxes(title_text="loss above the best of its scale (%)", rangemode="tozero")
    known = np.isfinite(imbalance)
    worst = float(np.nanmax(imbalance[known]))
    caption = (
        "Each run against the best run of the same size and horizon. An imbalance of 1 is an even load. "
        f"Highest seen: {worst:.1f}; half of the runs stay below {float(np.median(imbalance[known])):.2f}, "
        f"and the median excess is {percent(float(np.median(seen.excess[known])), 1)}."
    )
    return Plot(figure, "Imbalance and loss", caption, half=True)


def _words(data: ReportInput, column: str) -> list[str]:
    seen = data.view
    return (
        [str(word or "") for word in seen.usable[column].to_list()] if seen.has(column) else [""] * seen.usable.height
    )


FIGURE = Figure(section="load", rank=0, draw=draw)
