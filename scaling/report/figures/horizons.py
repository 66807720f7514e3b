"""Horizons: each design's loss at successive token counts, and whether an early ranking predicts the late one."""

import numpy as np
from scipy.stats import spearmanr

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.figures import Figure, Plot
from moe_search.scaling.report.numbers import quantity
from moe_search.scaling.report.theme import blank, points, quantity_axis, sequence

FEWEST = 5
"""Designs needed before a rank correlation is worth printing."""


def draw(data: ReportInput) -> list[Plot] | str:
    """One line per design and size over its horizons."""
    seen = data.view
    if not seen.has("tokens", vary=True):
        return "All runs have the same number of tokens, so there are no horizons to compare."
    identity = next((column for column in ("trial", "design_key") if seen.has(column, vary=True)), None)
    if identity is None:
        return "The table does not say which runs belong to one design (trial or design_key), so none can be joined."
    tokens, loss = seen.column("tokens"), seen.loss
    keys = list(zip(seen.usable[identity].to_list(), seen.sizes.index, strict=True))
    members: dict[tuple[object, int], list[int]] = {}
    for row in np.argsort(tokens, kind="stable"):
        members.setdefault(keys[row], []).append(int(row))
    curves = {key: rows for key, rows in members.items() if len(rows) > 1 and key[0] is not None}
    if not curves:
        return "No design was observed at more than one token horizon."
    figure = blank(420)
    colors = sequence(len(seen.sizes.labels))
    for index, label in enumerate(seen.sizes.labels):
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for (_, size), rows in curves.items():
            if size == index:
                x += [*tokens[rows], None]
                y += [*loss[rows], None]
                text += [*(seen.hover[row] for row in rows), ""]
        if x:
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name=label,
                line={"color": colors[index], "width": 1},
                marker=points(colors[index], size=6),
                hovertext=text,
                hoverinfo="text",
            )
    figure.update_xaxes(**quantity_axis(list(tokens), "training tokens", seen.horizons.centers))
    figure.update_yaxes(title_text=seen.objective.axis)
    caption = (
        f"Each line is one design at one size ({seen.size_words or 'size unknown'}), decayed at several token horizons."
    )
    return [Plot(figure, "Loss over token horizons", caption + _agreement(tokens, loss, curves))]


def _agreement(tokens: np.ndarray, loss: np.ndarray, curves: dict[tuple[object, int], list[int]]) -> str:
    """Say how well the ranking at the shortest common horizon predicts the one at the longest, within sizes."""
    sentences = []
    for size in sorted({size for _, size in curves}):
        rows = [rows for (_, member), rows in curves.items() if member == size]
        spans = {(tokens[r[0]], tokens[r[-1]]) for r in rows}
        span = max(spans, key=lambda s: sum((tokens[r[0]], tokens[r[-1]]) == s for r in rows))
        pairs = np.array([(loss[r[0]], loss[r[-1]]) for r in rows if (tokens[r[0]], tokens[r[-1]]) == span])
        if len(pairs) >= FEWEST:
            rho = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
            sentences.append(
                f"{rho:.2f} over {len(pairs)} designs from {quantity(span[0])} to {quantity(span[1])} tokens"
            )
    if not sentences:
        return ""
    return (
        " Rank agreement of the shortest with the longest horizon (Spearman), smallest size first: "
        + "; ".join(sentences)
        + "."
    )


FIGURE = Figure(section="horizons", rank=0, draw=draw)
