"""The tables of choices: those as good as the best, and those that cost less to serve."""

from collections.abc import Sequence

from moe_search.scaling.recommendation import Choice
from moe_search.scaling.report.decision import schedule
from moe_search.scaling.report.numbers import NO_BREAK, NO_VALUE, fixed, interval, number, percent, quantity, signed
from moe_search.scaling.report.tables import Cell, Column, Row, Table, figure_cell

_HEAD = (
    Column("", numeric=True),
    Column("active", "of total", numeric=True),
    Column("tokens", numeric=True),
    Column("shape", "layers × width"),
    Column("experts", "a layer"),
    Column("G", numeric=True),
    Column("A", numeric=True),
    Column("schedule", "router"),
    Column("to serve", "GB", numeric=True),
    Column("P(best)", numeric=True),
    Column("difference", numeric=True),
    Column("predicted loss", "95 % interval"),
)


def near_optimal(choices: Sequence[Choice]) -> Table:
    """One row a choice, the best first; all intervals are drawn on one scale."""
    left, right = min(choice.low95 for choice in choices), max(choice.high95 for choice in choices)
    most = max(choice.probability_best for choice in choices) or 1.0
    rows = []
    for place, choice in enumerate(choices):
        whole, realised, moe = choice.architecture, choice.realised, choice.architecture.moe_layers
        shared = f", {moe[0].n_shared_experts} shared" if moe and moe[0].n_shared_experts else ""
        cells = [
            figure_cell(str(place + 1)),
            Cell(quantity(realised.n_active), numeric=True, small=f"of {quantity(realised.n_total)}"),
            figure_cell(quantity(choice.tokens)),
            Cell(f"{whole.n_layers}{NO_BREAK}×{NO_BREAK}{whole.d_model}"),
            Cell(number(realised.n_experts), small=f"top {moe[0].top_k}{shared}") if moe else Cell("dense"),
            figure_cell(number(realised.granularity, 2)),
            figure_cell(number(realised.activation_ratio, 2)),
            Cell(schedule(choice), small=choice.design.routing.router.replace("_", " ")) if moe else Cell(),
            figure_cell(number(choice.inference_gb)),
            figure_cell(percent(choice.probability_best, 1), share=choice.probability_best / most),
            figure_cell(signed(choice.difference) if place else NO_VALUE),
            Cell(
                f"{fixed(choice.loss)} ({interval(choice.low95, choice.high95)})",
                span=(choice.low95, choice.loss, choice.high95, left, right),
            ),
        ]
        rows.append(Row(cells, "" if place else "chosen"))
    return Table(_HEAD, rows)


_CHEAPER_HEAD = (
    Column("active", "of total", numeric=True),
    Column("tokens", numeric=True),
    Column("shape", "layers × width"),
    Column("experts", "a layer"),
    Column("G", numeric=True),
    Column("memory to serve", "of the best's", numeric=True),
    Column("FLOPs a token", "of the best's", numeric=True),
    Column("more loss", "95 % interval", numeric=True),
)


def cheaper(best: Choice, choices: Sequence[Choice]) -> Table:
    """One row a choice, the least loss first, its costs beside those of ``best``."""
    rows = []
    for choice in choices:
        whole, realised, moe = choice.architecture, choice.realised, choice.architecture.moe_layers
        memory, flops = choice.inference_gb / best.inference_gb, choice.inference_flops / best.inference_flops
        cells = [
            Cell(quantity(realised.n_active), numeric=True, small=f"of {quantity(realised.n_total)}"),
            figure_cell(quantity(choice.tokens)),
            Cell(f"{whole.n_layers}{NO_BREAK}×{NO_BREAK}{whole.d_model}"),
            Cell(number(realised.n_experts), small=f"top {moe[0].top_k}") if moe else Cell("dense"),
            figure_cell(number(realised.granularity, 2)),
            figure_cell(percent(memory), share=min(memory, 1.0)),
            figure_cell(percent(flops), share=min(flops, 1.0)),
            Cell(
                signed(choice.difference),
                numeric=True,
                small=f"{signed(choice.difference_low95)} to {signed(choice.difference_high95)}",
            ),
        ]
        rows.append(Row(cells, ""))
    return Table(_CHEAPER_HEAD, rows)
