"""What a fit says to a question, as a person reads it: forecasts, speedups, profiles beside intervals."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from moe_search.experiments import numbers
from moe_search.experiments.answering import Answer, Fitter
from moe_search.experiments.presenting import warning_lines
from moe_search.scaling.assumed import Asymptote
from moe_search.scaling.asymptote import Treatments
from moe_search.scaling.extrapolation import compute_of, largest_compute
from moe_search.scaling.fitted import Fit
from moe_search.scaling.speedup import Speedup
from moe_search.scaling.validation import told_apart

OPEN = "none"
"""In place of an end that an interval does not have."""


def answer_tables(answer: Answer, frame: pl.DataFrame) -> Iterator[Table]:
    """Yield the answers of one law, the runs that it was fitted to at hand."""
    if answer.fitted.profiles:
        yield profiles_table(answer.fitted)
    if answer.forecasts is not None:
        yield forecasts_table(answer.forecasts, largest_compute(frame), answer.models)
    yield from map(speedup_table, answer.speedups or ())


def forecasts_table(found: Treatments, largest: float | None, at: Mapping[str, pl.DataFrame]) -> Table:
    """Return the loss of each model under each treatment of the irreducible loss.

    Args:
        found: the forecasts.
        largest: training FLOPs of the largest run; None where the table does not tell.
        at: the models, by name.
    """
    table = _table(
        f"[bold]{found.law}[/bold]  forecasts", ("model", "irreducible loss", "loss", "80 %", "95 %", "x runs")
    )
    for name, row in at.items():
        flops = compute_of(row)
        beyond = f"{flops[0] / largest:.4g}" if largest and flops is not None else ""
        for treatment in found.treatments:
            one = next(one for one in treatment.forecasts if one.model == name)
            table.add_row(
                Text(name),
                _assumed(treatment.asymptote),
                f"{one.loss:.4f}",
                f"{one.low_80:.4f} to {one.high_80:.4f}",
                f"{one.low_95:.4f} to {one.high_95:.4f}",
                beyond,
            )
    table.caption = (
        "the law's loss, without the noise of a run; its interval is widened, and leans, as the law has erred above "
        "cuts of these runs; x runs: training FLOPs over those of the largest run"
    )
    return table


def _assumed(one: Asymptote) -> str:
    if one.kind == "none":
        return OPEN
    value = "not identified" if one.estimate.value is None else f"{one.parameter} = {one.estimate.value:.4g}"
    return f"{one.kind}: {value}"


def speedup_table(found: Speedup) -> Table:
    """Return the speedup of one group over the reference, over the compute of the reference."""
    headings = ("FLOPs", "loss", "FLOPs of the other", "speedup", "80 %", "95 %", "beyond the runs of")
    table = _table(f"[bold]{found.laws[0]}[/bold]  speedup of {_escaped(found.other)}", headings)
    for point in found.points:
        table.add_row(
            numbers.flops(point.train_flops),
            f"{point.loss:.4f}",
            OPEN if point.needed_flops is None else numbers.flops(point.needed_flops),
            OPEN if point.speedup is None else f"{point.speedup:.3g}",
            _span(point.low_80, point.high_80),
            _span(point.low_95, point.high_95),
            ", ".join(point.beyond_runs),
        )
    table.caption = (
        f"over {_escaped(found.reference)}, the reference: its training FLOPs over those that the other needs for its "
        "loss; 2: half the compute is enough; none: the loss is not reached"
    )
    return table


def profiles_table(fitted: Fit) -> Table:
    """Return the profile interval of each parameter that was profiled, beside that of the resamples."""
    table = _table(
        f"[bold]{fitted.law.name}[/bold]  profile likelihood", ("parameter", "value", "profile", "resamples")
    )
    for one in fitted.profiles:
        estimate = fitted.parameters[one.name]
        value = "" if estimate.value is None else f"{estimate.value:.4g}"
        table.add_row(one.name, value, _span(one.low, one.high), _span(estimate.low, estimate.high))
    table.caption = "95 % intervals; none: the likelihood stays high up to the parameter's bound"
    return table


def notes_on(fitter: Fitter, answers: Sequence[Answer]) -> Iterator[str]:
    """Yield what was done with the table, how laws compare on held-out runs, and what the answers rest on."""
    fits = [one.fitted for one in answers]
    yield from dict.fromkeys(line for one in fits for line in one.notes)
    yield from told_apart(fits, fitter.frame, holdout=fitter.holdout, cluster=fitter.cluster)
    yield from dict.fromkeys(line for one in answers for line in one.notes)


def warnings_on(fits: Sequence[Fit]) -> Iterator[str]:
    """Yield the warnings of fits to one table, and ends that a profile does not have."""
    yield from warning_lines(fits)
    for fitted in fits:
        for one in fitted.profiles:
            sides = [side for side, end in (("lower", one.low), ("upper", one.high)) if end is None]
            if sides:
                yield (
                    f"{fitted.law.name}: the profile of {one.name} has no {' and no '.join(sides)} end within its "
                    "bounds: the runs do not hold it on that side, whatever the resamples say"
                )


def _span(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return OPEN
    ends = (OPEN if end is None else f"{end:.4g}" for end in (low, high))
    return " to ".join(ends)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", caption_justify="left")
    for heading in headings:
        words = heading in {"model", "irreducible loss", "parameter", "beyond the runs of"}
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading not in {"model"})
    return table
