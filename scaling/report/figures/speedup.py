"""Effective speedup: how much less compute a routed design needs than a dense one for the same loss, over compute."""

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import number, percent, power, sentence, ticks
from moe_search.scaling.report.theme import DATA, MUTED, band, blank, flops_axis
from moe_search.scaling.speedup import Speedup, SpeedupPoint

FEWEST_TICKS = 4
CLOSE_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0)
"""Where the curve spans so little that steps of 1, 2, 5 would leave the axis bare."""


def draw(data: ReportInput) -> list[Plot] | str:
    """The curve with its 80 and 95 % bands; hollow points are extrapolated."""
    found = data.speedup
    if isinstance(found, str):
        return found
    points = [point for point in found.points if point.speedup is not None]
    if not points:
        return f"The {found.other} design never reaches the loss of the {found.reference} one."
    figure = blank(400)
    for level, low, high in (("95 %", "low_95", "high_95"), ("80 %", "low_80", "high_80")):
        whole = [(p.train_flops, getattr(p, low), getattr(p, high)) for p in points if getattr(p, low) is not None]
        if whole:
            x, bottom, top = (list(column) for column in zip(*whole, strict=True))
            style = {**band(DATA), "showlegend": True}
            figure.add_scatter(x=[*x, *x[::-1]], y=[*top, *bottom[::-1]], name=f"{level} interval", **style)
    figure.add_scatter(
        x=[point.train_flops for point in points],
        y=[point.speedup for point in points],
        mode="lines+markers",
        name=f"{found.other} over {found.reference}",
        line={"color": DATA, "width": 2},
        marker={
            "color": DATA,
            "size": 8,
            "symbol": ["circle-open" if point.beyond_runs else "circle" for point in points],
        },
        hovertext=[_words(found, point) for point in points],
        hoverinfo="text",
    )
    figure.add_hline(y=1, line={"color": MUTED, "width": 1, "dash": "dot"})
    flops = [point.train_flops for point in points]
    figure.update_xaxes(**flops_axis(flops, f"training FLOPs of the {found.reference} model"))
    drawn = [end for p in points for end in (p.speedup, p.low_95, p.high_95, 1.0) if end]
    lowest, highest = min(drawn) / 1.1, max(drawn) * 1.1
    positions, labels = ticks(lowest, highest, most=8, write=number)
    if len(positions) < FEWEST_TICKS:
        positions = [value for value in CLOSE_TICKS if lowest <= value <= highest]
        labels = list(map(number, positions))
    figure.update_yaxes(
        title_text="speedup (ratio of training FLOPs)",
        type="log",
        tickmode="array",
        tickvals=positions,
        ticktext=labels,
    )
    law = found.laws[0].replace("_", " ")
    kept = "each at its own tokens a parameter" if data.view.has("tokens", vary=True) else "at the tokens of all runs"
    caption = (
        f"By the law {law}: the training FLOPs of the {found.reference} model over those that the {found.other} one "
        "needs for the same loss; 2 means that half the compute is enough, below 1 that more is needed. They are the "
        f"best {found.other} run at the largest size and the {found.reference} run nearest to it in active size and "
        f"tokens, {kept}. Hollow: outside the compute of the runs of at least one of them. "
    )
    title = f"Compute of a {found.reference} model over that of a {found.other} one of equal loss"
    return [Plot(figure, title, caption + _notes(found))]


def _words(found: Speedup, point: SpeedupPoint) -> str:
    ends = "" if point.low_95 is None else f"<br>95 % {number(point.low_95)} to {number(point.high_95)}"
    return (
        f"speedup {number(point.speedup)}{ends}<br>loss {number(point.loss, 4)}<br>{found.reference} "
        f"{power(point.train_flops)} FLOPs, {found.other} {power(point.needed_flops)}<br>"
        f"reached in {percent(point.reached)} of draws"
    )


def _notes(found: Speedup) -> str:
    """What has to be said beside the curve; under one law both sides say the same of its irreducible loss."""
    own = tuple(f"{name}: " for name in (found.reference, found.other))
    said = dict.fromkeys(note.split(": ", 1)[1] if note.startswith(own) else note for note in found.notes)
    return " ".join(map(sentence, said))


FIGURE = Figure(section="speedup", rank=0, draw=draw)
