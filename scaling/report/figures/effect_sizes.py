"""What mattered: the change of the loss that each knob makes, with its interval."""

from html import escape

from moe_search.scaling.effects import Effect
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import number, percent, signed
from moe_search.scaling.report.theme import DATA, INK, MUTED, blank

MOST = 20


def label(effect: Effect) -> str:
    """Return ``granularity 1 to 8`` or ``router softmax_topk to sigmoid``; text from the table is escaped."""
    is_weight = effect.knob.startswith("weight/")
    name = effect.knob.replace("weight/", "share of ").removeprefix("n_").replace("_", " ")
    start, end = (
        value.replace("_", " ") if isinstance(value, str) else percent(value) if is_weight else number(value)
        for value in (effect.start, effect.end)
    )
    return escape(f"{name}: {start or 'none'} → {end or 'none'}")


def draw(data: ReportInput) -> list[Plot] | str:
    """A dot and an interval a knob, strongest on top; those whose interval holds zero are faint."""
    if not data.effects:
        return "No effects were estimated: no knob varied, or the table came without an analysis of them."
    effects = sorted(data.effects, key=lambda effect: -abs(effect.percent))[:MOST]
    figure = blank(90 + 27 * len(effects), legend=False)
    for clear, color in ((True, DATA), (False, MUTED)):
        rows = [(place, e) for place, e in enumerate(effects) if (e.low95 > 0 or e.high95 < 0) == clear]
        if rows:
            figure.add_scatter(
                x=[e.percent for _, e in rows],
                y=[-place for place, _ in rows],
                mode="markers",
                marker={"size": 9 if clear else 7, "color": color},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [e.high95 - e.percent for _, e in rows],
                    "arrayminus": [e.percent - e.low95 for _, e in rows],
                    "color": color,
                    "thickness": 2 if clear else 1,
                    "width": 0,
                },
                hovertext=[
                    f"{label(e)}<br>{signed(e.percent, 2)} % ({signed(e.low95, 2)} to {signed(e.high95, 2)})"
                    for _, e in rows
                ],
                hoverinfo="text",
            )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title_text="change of the loss (%; left of zero is better), 95 % interval")
    figure.update_yaxes(
        tickmode="array",
        tickvals=[-place for place in range(len(effects))],
        ticktext=[label(e) for e in effects],
        showgrid=False,
        range=[0.6 - len(effects), 0.6],
    )
    figure.update_layout(margin={"t": 36})
    left_out = len(data.effects) - len(effects)
    caption = (
        "Each row moves one knob from the 10th to the 90th percentile of what was tried (or from the most frequent "
        "choice to another) at equal size, tokens and other knobs. Grey: the interval holds zero, so these runs show "
        "no effect. This describes the runs here; it does "
        f"not extrapolate.{f' {left_out} smaller effects are in the data block.' if left_out else ''}"
    )
    return [Plot(figure, "Effect of each knob on the loss", caption)]


FIGURE = Figure(section="effects", rank=0, draw=draw)
