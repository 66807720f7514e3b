"""The three approaches to the best split of compute as a table: exponents, what of them is bias, the split itself."""

from collections import Counter

from moe_search.scaling.approaches import Approach
from moe_search.scaling.fitted import Estimate
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.numbers import count, fixed, interval, listed, power, quantity, signed
from moe_search.scaling.report.tables import Cell, Column, Table, figure_cell, plain


def approaches_table(data: ReportInput) -> Table | None:
    """Return one row an approach; None where there are none."""
    found = data.approaches
    if isinstance(found, str):
        return None
    largest, further = (split.train_flops for split in found.approaches[0].splits[-2:])
    head = [
        Column("approach"),
        Column("a in N ~ C^a", "95 % interval", numeric=True),
        Column("bias of a", "of the design", numeric=True),
        Column("a less bias", numeric=True),
        Column("b in D ~ C^b", "95 % interval", numeric=True),
        Column(f"N at {power(largest)} FLOPs", "parameters", numeric=True),
        Column(f"N at {power(further)} FLOPs", "parameters", numeric=True),
    ]
    rows = [
        [
            Cell(f"{one.number}: {one.name}", wrap=True),
            _exponent(one.size_exponent),
            figure_cell(signed(one.size_exponent_bias.value)),
            figure_cell(fixed(one.size_exponent_less_bias)),
            _exponent(one.tokens_exponent),
            _amount(one.splits[-2].size),
            _amount(one.splits[-1].size),
        ]
        for one in found.approaches
    ]
    return plain(head, rows)


def exponents(data: ReportInput) -> str:
    """Return the three exponents in words, for the points; empty where there are none."""
    if isinstance(data.approaches, str):
        return ""
    known = [one for one in data.approaches.approaches if one.size_exponent.value is not None]
    values = [f"{fixed(one.size_exponent.value)} (Approach {one.number})" for one in known]
    return f"the best size grows as compute to the power {listed(values)}" if known else ""


def with_interval(estimate: Estimate) -> str:
    """Return an amount with its 95 % interval: ``1.2 B (0.9 B to 1.4 B)``; a dash where it is withheld."""
    span = "" if estimate.low is None else f" ({quantity(estimate.low)} to {quantity(estimate.high)})"
    return quantity(estimate.value) + span


def _exponent(estimate: Estimate) -> Cell:
    span = "" if estimate.low is None else interval(estimate.low, estimate.high)
    return Cell(fixed(estimate.value), numeric=True, small=span)


def _amount(estimate: Estimate) -> Cell:
    span = "" if estimate.low is None else f"{quantity(estimate.low, 2)} to {quantity(estimate.high, 2)}"
    return Cell(quantity(estimate.value), numeric=True, small=span)


def groups_used(one: Approach) -> str:
    """Return ``6 of 9 groups used; 2: fewer than 4 runs``; empty for Approach 3, which has none."""
    if not one.groups:
        return ""
    left = Counter(group.reason for group in one.groups if not group.used)
    used = f"{sum(group.used for group in one.groups)} of {count(len(one.groups), 'group')} used"
    return "; ".join([used, *(f"{number}: {reason}" for reason, number in left.most_common())])
