"""A rehearsal as tables for a person."""

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table

from moe_search.experiments import numbers
from moe_search.experiments.rehearsal import SET_LEVEL, Rehearsal
from moe_search.experiments.wording import counted, scale_words


def rehearsal_renderables(rehearsal: Rehearsal) -> Iterator[RenderableType]:
    """Yield what each budget buys, and where it goes."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Rehearsal in {counted(rehearsal.worlds, 'drawn world', 'drawn worlds')}, choices judged at "
        f"{scale_words(rehearsal.judged_at)}",
        title_justify="left",
        title_style="bold",
        caption="regret of the chosen design: 0 is the best of the space, 1 its median; intervals: how often those of "
        f"the choice's predicted loss held the truth; best kept: how often the near-optimal set ({SET_LEVEL:.0%}) held "
        "the best design, and the share of the space it holds",
        caption_justify="left",
    )
    for heading in ("budget", "FLOPs", "regret", "quartiles", "80 %", "95 %", "best kept", "of space", "trials"):
        table.add_column(heading, justify="right", no_wrap=True)
    for budget in rehearsal.budgets:
        regrets = budget.regrets()
        if regrets is None:
            table.add_row(f"{budget.factor:g} x", numbers.flops(budget.budget_flops), "no run gave a loss")
            continue
        mean, low, _, high = regrets
        table.add_row(
            f"{budget.factor:g} x",
            numbers.flops(budget.budget_flops),
            f"{mean:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{budget.coverage(0.8):.0%}",
            f"{budget.coverage(0.95):.0%}",
            f"{budget.mean(lambda one: float(one.holds_best)):.0%}",
            f"{budget.mean(lambda one: one.set_share):.0%}",
            f"{budget.mean(lambda one: float(one.trials)):.0f}",
            style="bold" if budget.factor == 1 else "",
        )
    yield table
    own = next((budget for budget in rehearsal.budgets if budget.factor == 1), None)
    if own is not None and own.outcomes:
        spend = Table(box=box.SIMPLE_HEAD, title="Where the budget goes", title_justify="left", title_style="bold")
        for scale in own.spend():
            spend.add_column(scale_words(scale), justify="right", no_wrap=True)
        spend.add_row(*(f"{share:.0%}" for share in own.spend().values()))
        yield spend
    yield (
        "Worlds are drawn around published laws: they say what a budget is good for if text and models behave like "
        "those."
    )
