"""Residuals of the law in use against every variable: a pattern is something that the law does not know."""

from html import escape

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import rankdata

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.curves import expected
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import percent
from moe_search.scaling.report.runs_view import RunsView
from moe_search.scaling.report.theme import DATA, INK, MUTED, band, blank, flops_axis, points, quantity_axis
from moe_search.spaces.errors import InvalidInputError

NUMERIC = {
    "train_flops": "training FLOPs",
    "n_active_non_embedding": "active parameters,<br>without embeddings",
    "n_active": "active parameters",
    "n_total_non_embedding": "total parameters,<br>without embeddings",
    "n_total": "total parameters",
    "tokens": "training tokens",
    "granularity": "granularity G",
    "activation_ratio": "activation ratio A",
    "expansion": "expansion (total over active<br>expert parameters)",
    "n_experts": "experts per layer",
    "top_k": "experts per token",
    "n_shared_experts": "shared experts",
    "d_model": "width d_model",
    "n_layers": "layers",
    "unique_tokens": "unique tokens",
    "dense_tokens": "tokens before upcycling",
    "upcycled_tokens": "tokens after upcycling",
    "learning_rate": "learning rate",
    "batch_tokens": "tokens of a batch",
    "schedule_tilt": "schedule tilt",
    "schedule_bow": "schedule bow",
    "schedule_wave": "schedule wave",
    "load_imbalance": "load imbalance",
}
WEIGHT = "weight/"
CATEGORICAL = {"router": "router", "balancing": "balancing"}
LINEAR = ("load_imbalance", "n_shared_experts", "schedule_tilt", "schedule_bow", "schedule_wave")
COLUMNS = 3
MOST_TICKS = 4
Rows = npt.NDArray[np.intp]


def draw(data: ReportInput) -> list[Plot] | str:
    """A grid of small panels, residual in percent of the loss."""
    seen = data.view
    if not data.laws:
        return "No law was fitted, so there are no residuals."
    fit = data.laws[0]
    law = fit.law.name.replace("_", " ")
    rows = np.flatnonzero(seen.kinds != "random router")
    try:
        error = 100 * (seen.column(fit.objective_column)[rows] / expected(fit, seen.usable[rows.tolist()]) - 1)
    except InvalidInputError as failure:
        return f"The residuals of the law {law} cannot be computed: {failure}."
    weights = [WEIGHT + domain for domain in seen.domains]
    names = [name for name in (*NUMERIC, *CATEGORICAL, *weights) if seen.has(name, vary=True)]
    names = [name for place, name in enumerate(names) if not _seen_already(seen, name, names[:place])]
    if not names:
        return "No variable varies, so there is nothing to plot residuals against."
    height = -(-len(names) // COLUMNS)
    figure = make_subplots(
        rows=height, cols=COLUMNS, shared_yaxes="all", horizontal_spacing=0.03, vertical_spacing=0.36 / height
    )
    figure.update_layout(blank(70 + 245 * height, legend=False).layout)
    for place, name in enumerate(names):
        panel = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        if name in CATEGORICAL:
            x = _categories(figure, seen, name, rows, panel)
        else:
            x = _numbers(figure, seen, name, rows, panel)
        figure.add_scatter(
            x=x,
            y=error,
            mode="markers",
            marker=points(DATA, size=6, opacity=0.75),
            hovertext=[seen.hover[row] for row in rows],
            hoverinfo="text",
            **panel,
        )
    figure.update_yaxes(title_text="residual (%)", col=1)
    figure.add_hline(y=0, line={"color": INK, "width": 1}, opacity=0.6)
    caption = (
        f"Observed loss over what the law {law} expects, minus one; dense controls included, random routers left out. "
        f"Root mean square {percent(float(np.sqrt(np.mean(error**2))) / 100, 2)}. "
    )
    noise = seen.seed_noise
    caption += (
        "Too few runs differ in their seed alone, so that the noise of a seed is not known."
        if noise is None
        else f"Grey band: twice the deviation between runs that differ in their seed alone (sd {percent(noise, 2)})."
    )
    return [Plot(figure, f"Residuals of {law}", caption)]


def _seen_already(seen: RunsView, name: str, before: list[str]) -> bool:
    """Whether a column orders the runs as one before it does: its panel would be the same picture."""
    if name in CATEGORICAL:
        return False
    order = rankdata(seen.column(name))
    return any(np.array_equal(order, rankdata(seen.column(other))) for other in before if other not in CATEGORICAL)


def _categories(figure: go.Figure, seen: RunsView, name: str, rows: Rows, panel: dict[str, int]) -> list[object]:
    figure.update_xaxes(title_text=CATEGORICAL[name], type="category", **panel)
    words = np.array([escape(str(word or "none").replace("_", " ")) for word in seen.usable[name].to_list()])
    return list(words[rows])


def _numbers(figure: go.Figure, seen: RunsView, name: str, rows: Rows, panel: dict[str, int]) -> list[object]:
    """Style a numeric axis and draw the band of seed noise along it; return the values."""
    x = seen.column(name)[rows]
    linear = name in LINEAR or name.startswith(WEIGHT)
    known = x[np.isfinite(x) & (linear | (x > 0))]
    if linear:
        words = NUMERIC.get(name) or f"share of {escape(name.removeprefix(WEIGHT)).replace('_', ' ')}"
        axis: dict[str, object] = {"title_text": words, "nticks": MOST_TICKS}
    elif name == "train_flops":
        axis = flops_axis(list(known), NUMERIC[name], most=MOST_TICKS)
    else:
        axis = quantity_axis(list(known), NUMERIC[name], sorted(set(known.tolist())), most=MOST_TICKS)
    figure.update_xaxes(**axis, **panel)
    if seen.seed_noise is not None:
        margin = 0.05 * (known.max() - known.min())
        left, right = (known.min() - margin, known.max() + margin) if linear else (known.min() / 1.2, known.max() * 1.2)
        height = 200 * seen.seed_noise
        corners = {"x": [left, right, right, left], "y": [height, height, -height, -height]}
        figure.add_scatter(**corners, **band(MUTED), **panel)
    return list(x)


FIGURE = Figure(section="residuals", rank=0, draw=draw)
