"""The laws on the held-out scale as a table: one row a law, least error first, and one for the stack of the tied."""

import math

from moe_search.scaling.holdout import Holdout
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.numbers import NO_VALUE, listed, percent, signed
from moe_search.scaling.report.tables import Cell, Column, Row, Table, figure_cell
from moe_search.scaling.validation import Difference


def held_out_table(data: ReportInput) -> Table | None:
    """Return the held-out errors; the law that is extrapolated with is marked. None where no run was held out."""
    if not data.held_out:
        return None
    differences = {one.law: one for one in data.comparison.differences} if data.comparison else {}
    head = [
        Column("law"),
        Column("parameters", numeric=True),
        Column("fitted", "runs", numeric=True),
        Column("held out", "runs", numeric=True),
        Column("mean error", "%", numeric=True),
        *([Column("worse than the first by", "points, 95 % interval", numeric=True)] if differences else []),
        Column("signed error", "%", numeric=True),
        Column("in 80 %", "of runs", numeric=True),
        Column("in 95 %", "of runs", numeric=True),
    ]
    used = data.laws[0].law.name if data.laws else ""
    rows = []
    for fit, holdout in data.held_out:
        sizes = [str(len(fit.law.parameters)), str(fit.n_runs)]
        beside = [_difference(differences.get(fit.law.name))] if differences else []
        cells = _cells(Cell(fit.law.name.replace("_", " ")), sizes, beside, holdout)
        rows.append(Row(cells, "chosen" if fit.law.name == used else ""))
    found = data.comparison
    if found and found.stack and found.stack_holdout:
        beside = [figure_cell(NO_VALUE)] if differences else []
        rows.append(Row(_cells(Cell("stack of the tied"), [NO_VALUE, NO_VALUE], beside, found.stack_holdout)))
    return Table(head, rows)


def stack_sentence(data: ReportInput) -> str:
    """Return what the stack is made of; empty where a law wins."""
    if data.comparison is None or data.comparison.stack is None:
        return ""
    stack = data.comparison.stack
    shares = [
        f"{fit.law.name.replace('_', ' ')} {percent(weight)}"
        for fit, weight in zip(stack.fits, stack.weights, strict=True)
    ]
    return (
        "No law wins: those that are tied err by no more than chance may beyond the first. Their stack is a mixture of "
        f"their predictions, weighted by how well each predicted the runs above the cuts below: {listed(shares, 12)}."
    )


def _cells(name: Cell, sizes: list[str], beside: list[Cell], holdout: Holdout) -> list[Cell]:
    return [
        name,
        *map(figure_cell, sizes),
        figure_cell(str(len(holdout.predictions))),
        figure_cell(f"{holdout.mape:.2f}"),
        *beside,
        figure_cell(signed(holdout.bias, 2)),
        figure_cell(percent(holdout.coverage_80)),
        figure_cell(percent(holdout.coverage_95)),
    ]


def _difference(one: Difference | None) -> Cell:
    """``+1.97`` over ``0.31 to 3.60, tied``."""
    if one is None:
        return figure_cell(NO_VALUE)
    if not math.isfinite(one.low):
        return Cell(signed(one.mean, 2), numeric=True, small="one unit: no interval")
    words = f"{signed(one.low, 2)} to {signed(one.high, 2)}"
    return Cell(signed(one.mean, 2), numeric=True, small=words + ("; tied" if one.tied else ""))
