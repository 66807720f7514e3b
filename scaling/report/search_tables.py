"""What proxies are worth, and how surrogates compare, as tables."""

from moe_search.scaling.report.numbers import NO_VALUE, number, percent, quantity
from moe_search.scaling.report.search_summary import SearchSummary
from moe_search.scaling.report.tables import Cell, Column, Table, figure_cell, plain


def truth_table(search: SearchSummary) -> Table | None:
    """Return one row a knob: its effect, from which scale it is decided, and the share at each scale."""
    if not search.truths:
        return None
    scales = search.truths[0].scales
    head = [
        Column("knob"),
        Column("effect", "% of the loss", numeric=True),
        Column("decided from"),
        *(Column(f"{quantity(one.n_active)} × {quantity(one.tokens)}", "one run each", numeric=True) for one in scales),
        Column("top → full scale", numeric=True),
    ]
    rows = []
    for truth in search.truths:
        if not truth.matters:
            verdict = Cell("within the noise of a seed")
        elif truth.decided_from is None:
            verdict = Cell("not below the top")
        else:
            verdict = Cell(" × ".join(quantity(value) for value in truth.decided_from))
        shares = [
            Cell(percent(one.expected), numeric=True, share=one.expected, small=percent(one.one_run))
            for one in truth.scales
        ]
        beyond = NO_VALUE if truth.full_scale is None else percent(truth.full_scale)
        name, effect = Cell(truth.knob.replace("_", " ")), figure_cell(number(100 * truth.effect, 2))
        rows.append([name, effect, verdict, *shares, figure_cell(beyond)])
    return plain(head, rows)


def scores_table(search: SearchSummary) -> Table | None:
    """Return the surrogates that were compared; None where none were."""
    if not search.scores:
        return None
    head = [Column("surrogate"), Column("error", "% within a scale", numeric=True), Column("offset", "%", numeric=True)]
    rows = [
        [Cell(one.form), figure_cell(number(one.error, 2)), figure_cell(number(one.offset, 2))] for one in search.scores
    ]
    return plain(head, rows)
