"""Search policies on a recorded table, as the command line asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.loading import validated
from moe_search.search.replay.play import CHECKPOINTS, Summary, replay
from moe_search.search.replay.policies import get_policy
from moe_search.search.replay.task import RecordedTable, ReplayTask, load_table


def read_task(path: Path) -> RecordedTable:
    """Read a task and its table.

    Raises:
        InvalidInputError: the file, its fields, the table or one of its columns are wrong.
    """
    return load_table(validated(ReplayTask, Document.read(path)), path.parent)


def replay_all(
    table: RecordedTable,
    policies: Sequence[str],
    *,
    seeds: int,
    budget: float,
    threshold: float,
    log: Callable[[str], None],
) -> dict[str, Summary]:
    """Replay policies one after the other; each sees the same seeds."""
    made = {name: get_policy(name) for name in dict.fromkeys(policies)}  # all names are checked before any work
    found = {}
    for name, policy in made.items():
        log(f"{name}: {seeds} seeds")
        found[name], _ = replay(table, policy, seeds=seeds, budget=budget, threshold=threshold)
    return found


def as_json(found: dict[str, Summary]) -> dict[str, Any]:
    """Return what ``replay --json`` prints."""
    return {"policies": {name: asdict(summary) for name, summary in found.items()}}


def table_of(table: RecordedTable, found: dict[str, Summary], *, threshold: float) -> Table:
    """Return the policies for a person, the cheapest first."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        title=f"{table.name}: {len(table.options(table.target))} designs at {table.fidelities[-1]}",
        title_justify="left",
        caption=f"cost in runs at {table.fidelities[-1]}, of the seeds that ran a design with regret <= {threshold:g} "
        "there; regret: (loss - best) / (median - best), mean over seeds, when so much had been spent; "
        f"runs: mean number at {', '.join(table.fidelities)}",
        caption_justify="left",
    )
    shown.add_column("policy", no_wrap=True)
    regrets = (f"regret at {at:g}" for at in CHECKPOINTS)
    for heading in ("reached", "mean cost", "median", *regrets, "CPU s/call", "runs"):
        shown.add_column(heading, justify="right", no_wrap=True)
    order = sorted(found.items(), key=lambda item: (-item[1].reached, item[1].mean_cost or float("inf")))
    for name, one in order:
        costs = (one.mean_cost, one.median_cost, *one.regret_at.values())
        shown.add_row(
            name,
            f"{one.reached:.0%}",
            *("-" if value is None else f"{value:.2f}" for value in costs),
            f"{one.seconds_per_suggestion:.2g}",
            " / ".join(f"{count:.0f}" for count in one.evaluations.values()),
        )
    return shown
