"""The tables about laws: the checklist that every fit must show.

The checklist follows the (Mis)Fitting survey (Li, Kudugunta, Zettlemoyer 2025): form, conventions, data, objective,
optimiser, starts, uncertainty, what the data do not identify.
"""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from moe_search.scaling.fitted import Estimate, Fit
from moe_search.scaling.law import Parameter
from moe_search.scaling.pinned import Pinned
from moe_search.scaling.profiles import Profile
from moe_search.scaling.report.contents import ReportInput
from moe_search.scaling.report.correlation import correlation
from moe_search.scaling.report.equation import symbol, typeset
from moe_search.scaling.report.numbers import NO_VALUE, duration, number, percent, power, signed
from moe_search.scaling.report.tables import Cell, Column, Table, figure_cell, plain

STRONG = 0.95
"""Correlation of two parameters from which they are named: their values mean little apart."""


@dataclass(frozen=True)
class Checklist:
    """What the page says about one fit."""

    name: str
    summary: str
    fit: Fit
    letters: Markup | None
    """The equation typeset; None where its text is not in the notation."""
    numbers: Markup | None
    """The same with the estimates put in; what is withheld keeps its letter."""
    objective: str
    parameters: Table
    derived: Table | None
    facts: dict[str, str]


def checklists(data: ReportInput) -> list[Checklist]:
    """One a fit, the law in use first."""
    return [_checklist(data, fit) for fit in data.laws]


def _checklist(data: ReportInput, fit: Fit) -> Checklist:
    unit = "bits per byte" if fit.objective_column.startswith("bpb") else "nats per token"
    shared = fit.starts_reached_best / fit.starts_total if fit.starts_total else 0.0
    drawn = len(fit.draws) if len(fit.draws) > 1 else 0
    reached = f"{fit.starts_reached_best} of {fit.starts_total} starts ({percent(shared)}) reached the best objective"
    prior = " and a weak prior" if fit.law.regularised else ""
    by = f"units of {data.settings.cluster}" if data.settings.cluster else "single rows"
    sampled = f"95 % intervals of {drawn} resamples of {by}, each refitted from the optimum"
    facts = {
        "As text": fit.law.equation,
        "Units": f"{fit.objective_column} in {unit}; N parameters, D tokens, C training FLOPs, {data.settings.flops}",
        "Logarithms": _logarithms(fit),
        "Data": f"{fit.n_runs} runs",
        "Source": fit.law.source,
        "Conventions": fit.law.convention.replace("`", ""),
        "Objective": f"Huber loss of ln predicted - ln observed, linear beyond {number(data.settings.delta)}, summed "
        f"over runs (not averaged){prior}: {number(fit.objective, 10)} at the optimum",
        "Optimiser": f"batched, damped Newton; {reached}",
        "At the optimum": f"gradient norm {power(fit.gradient_norm)}, condition number {_condition(fit)}",
        "Residual": f"{percent(fit.residual_sd, 2)} of the loss (standard deviation, over the degrees of freedom); "
        f"between seeds {percent(fit.seed_sd, 2) if fit.seed_sd is not None else 'not known'}",
        "Uncertainty": sampled if drawn else "no resampling, so no intervals",
        "Correlated": _correlations(fit),
        "At a bound": ", ".join(fit.at_bound) or "none",
        "Time": duration(fit.seconds),
    }
    published = list(fit.law.published)[:2]
    head = [
        Column("parameter"),
        Column("meaning"),
        Column("unit"),
        Column("value", numeric=True),
        Column("std. error", numeric=True),
        Column("95 % interval", numeric=True),
        *([Column("95 % interval", "of the profile", numeric=True)] if fit.profiles else []),
        *(Column(name, "published", numeric=True) for name in published),
    ]
    rows = []
    for parameter in fit.law.parameters:
        cells = _estimate(fit.parameters[parameter.name])
        known = [figure_cell(number(fit.law.published[name].get(parameter.name), 4)) for name in published]
        known_profiles = [profiled(one) for one in fit.profiles if one.name == parameter.name]
        cells += map(figure_cell, known_profiles or [NO_VALUE] * bool(fit.profiles))
        rows.append([_sign(parameter), Cell(parameter.meaning), Cell(_unit(parameter, fit)), *cells, *known])
    derived = [[Cell(name.replace("_", " ")), *_estimate(estimate)] for name, estimate in fit.derived.items()]
    return Checklist(
        name=_name(fit),
        summary=f"{fit.n_runs} runs, {reached}, residual {percent(fit.residual_sd, 2)}",
        fit=fit,
        letters=typeset(fit.law.equation),
        numbers=typeset(fit.law.equation, _values(fit)),
        objective=unit,
        parameters=plain(head, rows),
        derived=plain(
            ["derived", *(Column(title, numeric=True) for title in ("value", "std. error", "95 % interval"))], derived
        )
        if derived
        else None,
        facts=facts,
    )


def _values(fit: Fit) -> dict[str, float]:
    """What stands for a letter: estimates, and the values that a parameter is held at."""
    known = {name: estimate.value for name, estimate in fit.parameters.items() if estimate.value is not None}
    return {**known, **(fit.law.held if isinstance(fit.law, Pinned) else {})}


def _sign(parameter: Parameter) -> Cell:
    """The letter as in the equation, with the name that files and commands use under it."""
    return Cell(parameter.name, markup=symbol(parameter.name), small=parameter.name)


def _unit(parameter: Parameter, fit: Fit) -> str:
    """The unit of the fitted loss for what is proportional to it; all else has none of its own."""
    if not parameter.unit:
        return NO_VALUE
    return "bits/byte" if fit.objective_column.startswith("bpb") else "nats/token"


def _logarithms(fit: Fit) -> str:
    written = [name for name in ("log10", "log2") if name in fit.law.equation]
    inside = f"{' and '.join(written)} in the equation as written; " if written else ""
    return f"{inside}natural in the objective and in residuals"


def _name(fit: Fit) -> str:
    return fit.law.name.replace("_", " ")


def _estimate(estimate: Estimate) -> list[Cell]:
    if estimate.value is None:
        return [figure_cell("withheld"), figure_cell(NO_VALUE), figure_cell(NO_VALUE)]
    span = NO_VALUE if estimate.low is None else f"{number(estimate.low)} to {number(estimate.high)}"
    return [figure_cell(number(estimate.value, 4)), figure_cell(number(estimate.se, 2)), figure_cell(span)]


def profiled(one: Profile) -> str:
    """Return the interval of a profile; an end that the likelihood does not set is open."""
    if one.low is None or one.high is None:
        ends = [f"above {number(one.low)}"] * (one.low is not None) + [f"below {number(one.high)}"] * (
            one.high is not None
        )
        return ends[0] if ends else "open"
    return f"{number(one.low)} to {number(one.high)}"


def _condition(fit: Fit) -> str:
    return power(fit.condition_number) if np.isfinite(fit.condition_number) else "infinite (singular)"


def _correlations(fit: Fit) -> str:
    """Pairs of parameters whose estimates move together over the resamples."""
    if len(fit.draws) < 2:
        return "not known without resamples"
    matrix = correlation(fit)
    names = fit.law.names
    pairs = [
        f"{names[i]} and {names[j]} ({signed(float(matrix[i, j]), 2)})"
        for i in range(len(names))
        for j in range(i)
        if abs(matrix[i, j]) >= STRONG
    ]
    return ", ".join(pairs) if pairs else f"no pair of parameters above {STRONG}"
