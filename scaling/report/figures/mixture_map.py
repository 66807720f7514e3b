"""The mixtures on the simplex: a radial map of all tried mixtures, and the recommended weights beside uniform ones."""

import math
from html import escape

import numpy as np

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import percent
from moe_search.scaling.report.theme import HEAT, INK, LINE, MUTED, RECOMMENDED, blank

FEWEST_DOMAINS = 3


def draw(data: ReportInput) -> list[Plot] | str:
    """Where the tried mixtures lie and how good they are; the recommended weights."""
    seen = data.view
    if len(seen.domains) < 2:
        return "The table has no mixture weights, or one domain only, so there is no mixture to show."
    if np.ptp(seen.weights, axis=0).max() < 1e-6:
        return f"All runs have one mixture ({', '.join(seen.domains)}), so nothing can be said about other ones."
    plots = [_weights(data)]
    if len(seen.domains) >= FEWEST_DOMAINS:
        plots.insert(0, _map(data))
    return plots


def _order(data: ReportInput) -> np.ndarray:
    """Rows with the best run last, so that it is drawn on top."""
    return np.argsort(-data.view.excess, kind="stable")


def _color(data: ReportInput, rows: np.ndarray, *, bar: bool) -> dict[str, object]:
    """Marker colours for the loss excess in percent, up to the 90th percentile, so that outliers do not bleach it."""
    excess = 100 * data.view.excess
    return {
        "color": excess[rows],
        "colorscale": HEAT,
        "cmin": 0,
        "cmax": max(float(np.quantile(excess, 0.9)), 1e-6),
        "showscale": bar,
        "colorbar": {
            "title": {"text": "loss above the best of its scale (%)", "font": {"size": 12}, "side": "bottom"},
            "orientation": "h",
            "thickness": 8,
            "len": 0.6,
            "y": 0,
            "yanchor": "top",
            "outlinewidth": 0,
            "tickfont": {"size": 11, "color": MUTED},
        },
    }


def _map(data: ReportInput) -> Plot:
    seen = data.view
    angles = math.pi / 2 - 2 * math.pi * np.arange(len(seen.domains)) / len(seen.domains)
    anchors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = _order(data)
    places = seen.weights @ anchors
    chosen = np.array([data.recommended_mixture.get(domain, 0.0) for domain in seen.domains]) @ anchors
    reach = 1.12 * max(float(np.hypot(*places.T).max()), float(np.hypot(*chosen)), 1e-9)
    rim = anchors * reach
    figure = blank(430, legend=False)
    circle = np.linspace(0, 2 * math.pi, 121)
    figure.add_scatter(
        x=reach * np.cos(circle),
        y=reach * np.sin(circle),
        mode="lines",
        line={"color": LINE, "width": 1},
        hoverinfo="skip",
    )
    for end in rim:
        figure.add_scatter(
            x=[0, end[0]], y=[0, end[1]], mode="lines", line={"color": LINE, "width": 1}, hoverinfo="skip"
        )
    for (x, y), domain in zip(rim, seen.domains, strict=True):
        figure.add_annotation(
            x=x * 1.04,
            y=y * 1.04,
            text=escape(domain),
            showarrow=False,
            font={"size": 12, "color": INK},
            xanchor="left" if x > 0.1 * reach else "right" if x < -0.1 * reach else "center",
            yanchor="bottom" if y > 0.9 * reach else "top" if y < -0.9 * reach else "middle",
        )
    figure.add_scatter(
        x=places[rows, 0],
        y=places[rows, 1],
        mode="markers",
        marker={"size": 8, "line": {"width": 1, "color": "var(--paper)"}, **_color(data, rows, bar=True)},
        hovertext=[seen.hover[row] for row in rows],
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[0],
        y=[0],
        mode="markers",
        marker={"symbol": "cross-thin", "size": 12, "line": {"width": 1.5, "color": INK}},
        hovertext=["uniform mixture"],
        hoverinfo="text",
    )
    if data.recommended_mixture:
        figure.add_scatter(
            x=[chosen[0]],
            y=[chosen[1]],
            mode="markers",
            marker={"symbol": "star", "size": 17, "color": RECOMMENDED, "line": {"width": 1, "color": "var(--paper)"}},
            hovertext=["recommended mixture"],
            hoverinfo="text",
        )
    span = 1.2 * reach
    figure.update_xaxes(visible=False, range=[-span * 1.5, span * 1.5])
    figure.update_yaxes(visible=False, range=[-span, span], scaleanchor="x")
    figure.update_layout(margin={"l": 4, "r": 4, "t": 8, "b": 56})
    caption = (
        "Each run is drawn towards the domains it takes its tokens from; spokes show directions, and the cross is the "
        "uniform mixture. Different mixtures can fall on one spot, so read it beside the weights."
    )
    return Plot(
        figure, "Tried mixtures", caption + (" Star: recommended." if data.recommended_mixture else ""), half=True
    )


def _weights(data: ReportInput) -> Plot:
    seen = data.view
    rows = _order(data)
    recommended = data.recommended_mixture
    best = dict(
        zip(
            seen.domains,
            seen.weights[int(np.argmin(seen.excess + (seen.sizes.index < seen.sizes.index.max())))],
            strict=True,
        )
    )
    shown, name = (recommended, "recommended") if recommended else (best, "best run")
    figure = blank(max(430, 130 + 34 * len(seen.domains)))
    places = list(range(len(seen.domains)))[::-1]
    figure.add_bar(
        x=[shown.get(domain, 0.0) for domain in seen.domains],
        y=places,
        orientation="h",
        width=0.34,
        name=name,
        marker={"color": RECOMMENDED, "line": {"width": 0}},
        hoverinfo="skip",
    )
    jitter = np.linspace(-0.06, 0.06, 5)
    for column, place in enumerate(places):
        figure.add_scatter(
            x=seen.weights[rows, column],
            y=place - 0.32 + jitter[np.arange(len(rows)) % len(jitter)],
            mode="markers",
            name="tried",
            legendgroup="tried",
            showlegend=False,
            marker={"size": 5, "line": {"width": 0}, **_color(data, rows, bar=False)},
            hovertext=[seen.hover[row] for row in rows],
            hoverinfo="text",
        )
    labels = [f"{escape(domain)}  <b>{percent(shown.get(domain, 0.0), 1)}</b>" for domain in seen.domains]
    uniform = 1 / len(seen.domains)
    figure.add_scatter(
        x=[uniform] * 2,
        y=[-0.6, len(seen.domains) - 0.5],
        mode="lines",
        name=f"uniform ({percent(uniform, 1)})",
        line={"color": MUTED, "width": 1.2, "dash": "dot"},
        hoverinfo="skip",
    )
    figure.update_xaxes(title_text="share of training tokens", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(
        tickmode="array", tickvals=places, ticktext=labels, range=[-0.7, len(seen.domains) - 0.4], showgrid=False
    )
    figure.update_yaxes(showline=False, ticks="")
    caption = "Dots under each bar: the weights of all runs, coloured as in the map, strong near the best of its scale."
    if not recommended:
        caption += " No recommendation was made; the bars show the best run at the largest size."
    return Plot(figure, "Weights by domain", caption, half=True)


FIGURE = Figure(section="mixture", rank=0, draw=draw)
