"""Capacity schedules: how the routed experts of every tried design are distributed over depth."""

import math

import numpy as np

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.theme import CATEGORIES, MUTED, RECOMMENDED, blank
from moe_search.spaces.schedule import NAMED_SCHEDULES

FREE = "free coefficients"


def schedule_name(tilt: float, bow: float, wave: float) -> str:
    """Return the name of the schedule with these coefficients, or ``FREE``."""
    for name, known in NAMED_SCHEDULES.items():
        if math.dist((tilt, bow, wave), (known.tilt, known.bow, known.wave)) < 1e-6:
            return name.replace("_", " ")
    return FREE


def draw(data: ReportInput) -> list[Plot] | str:
    """Relative capacity (experts over the layer mean) against relative depth."""
    seen = data.view
    if not seen.has("experts_per_layer"):
        return "The table has no experts per layer, so there are no capacity schedules to show."
    tried: dict[str, dict[tuple[float, ...], None]] = {}
    for row in seen.usable.iter_rows(named=True):
        layers = np.asarray(row["experts_per_layer"] or (), dtype=float)
        if layers.any():
            layers[layers == 0] = np.nan  # a dense layer has no experts: a gap in the line
            name = schedule_name(*(float(row.get(f"schedule_{part}") or 0) for part in ("tilt", "bow", "wave")))
            # the same schedule at several sizes has other layers; the deepest one shows its shape best
            tried.setdefault(name, {})[tuple(layers / np.nanmean(layers))] = None
    if not tried:
        return "Every run is dense, so there are no capacity schedules to show."
    recommended = data.recommended_experts_per_layer
    if list(tried) == ["uniform"] and len(set(recommended) - {0}) <= 1:
        return "Every design distributes its experts uniformly over depth, so there is no schedule to compare."
    figure = blank(400)
    order = sorted(tried, key=lambda name: (name == FREE, name != "uniform", name))
    for index, name in enumerate(order):
        shapes = tried[name]
        if name != FREE:
            shapes = {max(shapes, key=len): None}
        x: list[float | None] = []
        y: list[float | None] = []
        for shape in shapes:
            depth = np.linspace(0, 1, len(shape)) if len(shape) > 1 else np.array([0.5])
            x += [*depth, None]
            y += [*shape, None]
        color = MUTED if name == FREE else CATEGORIES[index % len(CATEGORIES)]
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            line={"color": color, "width": 0.8 if name == FREE else 1.6},
            marker={"color": color, "size": 4 if name == FREE else 6},
            opacity=0.5 if name == FREE else 1,
            hovertemplate=f"{name}<br>depth %{{x:.2f}}: %{{y:.2f}} of the mean<extra></extra>",
        )
    if any(recommended):
        chosen = np.where(np.asarray(recommended) > 0, np.asarray(recommended, dtype=float), np.nan)
        figure.add_scatter(
            x=np.linspace(0, 1, len(chosen)) if len(chosen) > 1 else [0.5],
            y=chosen / np.nanmean(chosen),
            mode="lines+markers",
            name="recommended",
            line={"color": RECOMMENDED, "width": 3},
            marker={"color": RECOMMENDED, "size": 5},
            hovertext=[f"layer {layer + 1}: {experts} experts" for layer, experts in enumerate(recommended)],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="relative depth (0: first layer, 1: last)", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="experts / mean experts of a layer", rangemode="tozero")
    caption = "At equal total experts and equal active parameters. A gap is a layer with a dense feed-forward part."
    return [Plot(figure, "Experts over depth", caption)]


FIGURE = Figure(section="schedules", rank=0, draw=draw)
