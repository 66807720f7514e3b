"""Where the compute went: training FLOPs paid at each size, split by horizon."""

import polars as pl

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import count, percent, power
from moe_search.scaling.report.runs_view import group
from moe_search.scaling.report.theme import blank, in_units, sequence


def draw(data: ReportInput) -> list[Plot] | str:
    """Stacked bars: sizes across, horizons by colour, failed runs included."""
    seen = data.view
    cost = next((name for name in ("paid_flops", "train_flops") if seen.has(name)), None)
    if cost is None or not seen.size_column or not seen.has("tokens"):
        return "The table does not say what its runs cost, so there is no spending to show."
    positive = [pl.col(name).cast(pl.Float64) > 0 for name in (cost, seen.size_column, "tokens")]
    frame = seen.frame.filter(positive)
    sizes, horizons = group(frame[seen.size_column]), group(frame["tokens"])
    paid = frame[cost].cast(pl.Float64).to_numpy()
    total = paid.sum()
    figure = blank(360)
    cells = [
        [paid[(sizes.index == size) & (horizons.index == horizon)] for size in range(len(sizes.labels))]
        for horizon in range(len(horizons.labels))
    ]
    scale, title = in_units(max(sum(row[size].sum() for row in cells) for size in range(len(sizes.labels))))
    for label, color, row in zip(horizons.labels, sequence(len(cells)), cells, strict=True):
        figure.add_bar(
            x=list(sizes.labels),
            y=[float(cell.sum()) / scale for cell in row],
            name=f"{label} tokens",
            marker={"color": color, "line": {"width": 0}},
            hovertext=[
                f"{power(float(cell.sum()))} FLOPs, {percent(float(cell.sum() / total))} of all<br>"
                f"{count(len(cell), 'run')}"
                for cell in row
            ],
            hoverinfo="text",
            textposition="none",
        )
    figure.update_layout(barmode="stack", bargap=0.45, legend_traceorder="normal")
    figure.update_xaxes(title_text="model size (" + seen.size_words.replace(", ", ",<br>") + ")", type="category")
    figure.update_yaxes(title_text=f"training FLOPs paid ({title})", rangemode="tozero")
    shared = cost == "paid_flops"
    words = "what each horizon cost beyond the trunk it shares" if shared else "those of a whole run each"
    return [Plot(figure, "Where the compute went", f"Failed runs included. FLOPs are {words}.", half=True)]


FIGURE = Figure(section="budget", rank=0, draw=draw)
