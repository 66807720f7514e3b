"""Held-out errors over several cuts of compute as a table: one row a law and cut."""

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.numbers import number, percent, power, signed
from moe_search.scaling.report.tables import Cell, Column, Table, figure_cell, plain


def rolling_table(data: ReportInput) -> Table | None:
    """Return the errors of each law above each cut; None where there are none."""
    if isinstance(data.rolling, str) or not data.rolling.scores:
        return None
    head = [
        Column("law"),
        Column("fitted up to", "FLOPs", numeric=True),
        Column("fitted", "runs", numeric=True),
        Column("held out", "runs", numeric=True),
        Column("largest run beyond", "decades of compute", numeric=True),
        Column("mean error", "%", numeric=True),
        Column("signed error", "%", numeric=True),
        Column("in 80 %", "of runs", numeric=True),
        Column("in 95 %", "of runs", numeric=True),
    ]
    order = [fit.law.name for fit in data.laws]
    scores = sorted(data.rolling.scores, key=lambda one: order.index(one.law) if one.law in order else len(order))
    rows = [
        [
            Cell(score.law.replace("_", " ")),
            figure_cell(power(score.train_flops, 3)),
            figure_cell(str(score.fitted)),
            figure_cell(str(score.held_out)),
            figure_cell(number(score.decades, 2)),
            figure_cell(f"{score.mape:.2f}"),
            figure_cell(signed(score.bias, 2)),
            figure_cell(percent(score.coverage_80)),
            figure_cell(percent(score.coverage_95)),
        ]
        for score in scores
    ]
    return plain(head, rows)
