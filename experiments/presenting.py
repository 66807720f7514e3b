"""What a person reads at the end: the recommendation, how sure it is, and where everything lies."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from moe_search.experiments import numbers
from moe_search.experiments.concluding import Conclusion
from moe_search.experiments.importing import Imported
from moe_search.experiments.wording import UNITS, mixture_words, schedule_name
from moe_search.scaling.fitted import Fit
from moe_search.scaling.recommend import Choice, Recommendation
from moe_search.spaces.architecture import Architecture

SHOWN = 6
"""Near-optimal choices on the terminal; all are in the report and in recommendation.json."""


def recommendation_panel(recommendation: Recommendation, predictor: str, unit: str = UNITS["bpb"]) -> RenderableType:
    """Return the recommended model with its constraint, interval and extrapolation."""
    best = recommendation.best
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column()
    for name, value in _facts(recommendation, predictor, unit):
        facts.add_row(name, value)
    parts: list[RenderableType] = [facts]
    if len(recommendation.near_optimal) > 1:
        parts += [Text(), _near_optimal(recommendation, unit)]
    if recommendation.cheaper:
        parts += [Text(), _cheaper(recommendation, unit)]
    parts += [Text(f"! {warning}", style="yellow") for warning in recommendation.warnings]
    total, active = numbers.count(best.realised.n_total), numbers.count(best.realised.n_active)
    title = f"Recommended: {total} parameters, {active} active"
    return Panel(Group(*parts), title=f"[bold]{title}[/bold]", title_align="left", box=box.ROUNDED, padding=(1, 2))


def _facts(recommendation: Recommendation, predictor: str, unit: str) -> Iterator[tuple[str, str]]:
    best = recommendation.best
    yield "model", describe(best.architecture)
    yield "design", _design(best)
    if best.design.mixture.root:
        yield "mixture", mixture_words(best.design.mixture, most=8)
    yield "training", f"{numbers.count(best.tokens)} tokens, {numbers.flops(best.train_flops)} FLOPs"
    yield "memory", f"{best.inference_gb:.3g} GB to serve in bf16, {best.training_gb:.3g} GB to train unsharded"
    yield (
        "predicted loss",
        f"{best.loss:.3f} {_short(unit)}, 95 % interval {best.low95:.3f} to {best.high95:.3f}, by {predictor}",
    )
    yield "held fixed", recommendation.constraint
    names = {"n_active": "active parameters", "tokens": "tokens", "train_flops": "FLOPs"}
    further = {names[name]: factor for name, factor in recommendation.extrapolation.items() if factor > 1}
    if further:
        factors = [f"{factor:.2g} x the {words}" for words, factor in further.items()]
        yield "extrapolated", f"{', '.join(factors)} of the largest run"
    yield (
        "as good",
        f"{recommendation.near_optimal_total} of {recommendation.candidates} candidates within the 95 % interval",
    )


def describe(architecture: Architecture) -> str:
    """Return the integers of a model in words."""
    text = f"{architecture.n_layers} layers x {architecture.d_model} wide"
    if not architecture.moe_layers:
        return f"{text}, dense"
    moe = architecture.moe_layers[0]
    counts = [ffn.n_experts for ffn in architecture.moe_layers]
    experts = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    shared = f" + {moe.n_shared_experts} shared" if moe.n_shared_experts else ""
    return f"{text}, {moe.top_k} of {experts} experts{shared}, each {moe.d_expert} wide"


def _short(unit: str) -> str:
    return unit.replace(" per ", "/")


def _design(choice: Choice) -> str:
    if choice.design.ffn == "dense":
        return "dense"
    realised = choice.realised
    return (
        f"granularity {realised.granularity:.3g}, activation ratio {active_share(choice)}, "
        f"{schedule_name(choice.design.schedule)} schedule, {choice.design.routing.router} router"
    )


def active_share(choice: Choice) -> str:
    """Return the active over all experts of a layer as people say it: ``9/65`` with a shared expert counted in both."""
    if not choice.architecture.moe_layers:
        return "dense"
    moe = choice.architecture.moe_layers[0]
    return f"{moe.top_k + moe.n_shared_experts}/{choice.realised.n_experts + moe.n_shared_experts:.0f}"


def _near_optimal(recommendation: Recommendation, unit: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title="As good, as far as the runs can tell", title_justify="left", title_style="bold"
    )
    headings: tuple[str, ...] = ("total", "active", "G", "experts", "schedule", "tokens", _short(unit), "mixture")
    mixed = any(choice.design.mixture.root for choice in recommendation.near_optimal)
    headings = headings if mixed else headings[:-1]
    for heading in headings:
        is_text = heading in {"schedule", "mixture"}
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "mixture")
    rows: dict[tuple[str, ...], None] = {}
    for choice in recommendation.near_optimal:
        realised = choice.realised
        row: tuple[str, ...] = (
            numbers.count(realised.n_total),
            numbers.count(realised.n_active),
            f"{realised.granularity:.2g}",
            active_share(choice),
            schedule_name(choice.design.schedule),
            numbers.count(choice.tokens),
            f"{choice.loss:.3f}",
            mixture_words(choice.design.mixture, most=2),
        )
        rows[row[: len(headings)]] = None  # candidates that differ by less than can be read count as one
    for row in list(rows)[:SHOWN]:
        table.add_row(*row)
    return table


def _cheaper(recommendation: Recommendation, unit: str) -> Table:
    """Return what less memory, or less compute a token, would cost at the same training budget."""
    table = Table(box=box.SIMPLE_HEAD, title="Cheaper to serve", title_justify="left", title_style="bold")
    for heading in ("total", "active", "G", "experts", "tokens", "memory", "FLOPs/token", f"more {_short(unit)}"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = recommendation.best
    for choice in recommendation.cheaper[:SHOWN]:
        lost = f"{choice.difference:.3f} ({choice.difference_low95:.3f} to {choice.difference_high95:.3f})"
        table.add_row(
            numbers.count(choice.realised.n_total),
            numbers.count(choice.realised.n_active),
            f"{choice.realised.granularity:.2g}",
            active_share(choice),
            numbers.count(choice.tokens),
            f"{choice.inference_gb / best.inference_gb:.0%}",
            f"{choice.inference_flops / best.inference_flops:.0%}",
            lost,
        )
    return table


def warning_lines(fits: Sequence[Fit]) -> list[str]:
    """Return the warnings of fits to one table, what they all say once and without a law's name."""
    common = [line for line in fits[0].warnings if all(line in one.warnings for one in fits)] if fits else []
    own = [f"{one.law.name}: {line}" for one in fits for line in one.warnings if line not in common]
    return common + own


def fits_table(fits: list[Fit], chosen: str = "") -> Table:
    """Return the laws with how well they predict runs that they have not seen."""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="in 80 %: held-out runs inside the 80 % interval; starts: that reached the best optimum; "
        "condition: of the Jacobian; open: parameters that the runs do not identify",
        caption_justify="left",
    )
    table.add_column("law", no_wrap=True)
    headings = ("runs", "held out", "error", "bias", "in 80 %", "in 95 %", "starts", "condition", "open", "time")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for fitted in fits:
        held = fitted.holdout
        check = (
            (
                str(len(held.predictions)),
                f"{held.mape:.2f} %",
                f"{held.bias:+.2f} %",
                f"{held.coverage_80:.0%}",
                f"{held.coverage_95:.0%}",
            )
            if held
            else ("-",) * 5
        )
        name = f"[bold]{fitted.law.name}[/bold] *" if fitted.law.name == chosen else fitted.law.name
        loose = sum(len(group.parameters) for group in fitted.unidentifiable)
        table.add_row(
            name,
            str(fitted.n_runs),
            *check,
            f"{fitted.starts_reached_best}/{fitted.starts_total}",
            f"{fitted.condition_number:.2g}",
            f"{loose}/{len(fitted.parameters)}",
            f"{fitted.seconds:.1f} s",
        )
    return table


def parameters_table(fitted: Fit) -> Table:
    """Return a law's parameters with their intervals; what the runs cannot identify has no value."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"[bold]{fitted.law.name}[/bold]  {fitted.law.equation}", title_justify="left"
    )
    for heading in ("parameter", "value", "standard error", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "parameter" else "right")
    for name, estimate in {**fitted.parameters, **fitted.derived}.items():
        if estimate.value is None:
            table.add_row(name, "[bright_black]not identified[/bright_black]", "", "")
            continue
        error = f"{estimate.se:.2g}" if estimate.se is not None else ""
        span = f"{estimate.low:.4g} to {estimate.high:.4g}" if estimate.low is not None else ""
        table.add_row(name, f"{estimate.value:.4g}", error, span)
    return table


def import_table(done: Imported) -> Table:
    """Return what became of somebody else's table."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("wrote", f"{done.output}, {done.rows} of {done.rows_read} rows")
    for name, expression in done.mapped.items():
        table.add_row("mapped", Text(f"{name} = {expression}"))
    for title, names in (("had our name", done.recognised), ("derived", done.derived), ("carried along", done.carried)):
        if names:
            table.add_row(title, Text(", ".join(names)))
    for reason, rows in done.dropped.items():
        table.add_row("dropped", Text(f"{rows} rows: {reason}"))
    return table


def conclusion_lines(conclusion: Conclusion, folder: str) -> Iterator[str]:
    """Yield where everything lies and what to type next."""
    for warning in conclusion.warnings:
        yield f"[yellow]![/yellow] {warning}"
    if conclusion.ended:
        yield f"[cyan]search[/cyan]           {conclusion.ended}"
    for sentence in conclusion.controls:
        yield f"[cyan]control[/cyan]          {sentence}"
    yield f"[cyan]report[/cyan]           {folder}/report.html"
    yield f"[cyan]recommendation[/cyan]   {folder}/recommendation.json, {folder}/recommended/"
    if conclusion.lost:
        yield f"[cyan]Hugging Face[/cyan]     not exported; lost would be: {'; '.join(conclusion.lost)}"
    else:
        yield f"[cyan]Hugging Face[/cyan]     {folder}/recommended/hf"
    yield f"[cyan]MLflow[/cyan]           moe-search ui {folder}"
