"""The sensitivity of the answer as a table: one row a choice, one column a watched quantity."""

from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.numbers import NO_VALUE, fixed, interval, signed
from moe_search.scaling.report.tables import Cell, Column, Row, Table
from moe_search.scaling.sensitivity import Quantity, Sensitivity, Variant

LARGE = 2.0
"""Standard errors from which a shift is marked: the interval of the fit does not cover it."""


def sensitivity_table(data: ReportInput) -> Table | None:
    """Return the values under each choice with their shifts in standard errors; None where there are none."""
    result = data.sensitivity
    if isinstance(result, str):
        return None
    unit = data.view.objective.unit
    columns = [Column("choice"), Column("setting"), Column("runs", numeric=True)]
    columns += [
        Column(quantity.name.replace("_", " "), unit if quantity.is_loss else "", numeric=True)
        for quantity in result.quantities
    ]
    rows = [Row(_baseline(result), "chosen")]
    rows += [Row(_variant(result, variant)) for variant in result.variants]
    return Table(columns, rows)


def _baseline(result: Sensitivity) -> list[Cell]:
    cells = [Cell(fixed(quantity.value), numeric=True, small=_span(quantity)) for quantity in result.quantities]
    return [Cell("as fitted"), Cell(), Cell(str(result.runs), numeric=True), *cells]


def _span(quantity: Quantity) -> str:
    return f"95 %: {interval(quantity.low, quantity.high)}" if quantity.se else "no interval"


def _variant(result: Sensitivity, variant: Variant) -> list[Cell]:
    cells = []
    for quantity in result.quantities:
        value, shift = variant.values.get(quantity.name), result.shift(variant, quantity)
        mark = "" if shift is None else f"{signed(shift, 1)} s.e.{' !' if abs(shift) >= LARGE else ''}"
        cells.append(Cell(NO_VALUE if value is None else fixed(value), numeric=True, small=mark))
    return [Cell(variant.choice), Cell(variant.setting, wrap=True), Cell(str(variant.runs), numeric=True), *cells]
