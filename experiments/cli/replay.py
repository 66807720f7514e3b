"""``moe-search replay``: search policies on a recorded table."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json
from moe_search.experiments.cli.options import Json


def replay(
    task: Annotated[Path, typer.Argument(help="A task: table, design, fidelity, objective.", metavar="TASK")],
    *,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="NAME", help="A policy; repeatable. Default: decision, random, qlognei."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Replays of each policy.")] = 20,
    threshold: Annotated[float, typer.Option(min=0, help="Normalised regret that counts as found.")] = 0.1,
    budget: Annotated[float, typer.Option(min=0.01, help="Most that a replay may spend, in runs at the target.")] = 40,
    json: Json = False,
) -> None:
    """Play search policies on a table of runs that exist: who finds a good design at the target, at what cost.

    A policy may only ask for rows of the table, every one is charged, and a design counts when it has been run at the
    target. Cost is in runs at the target.

    [bold]Examples[/bold]

      moe-search replay task.yaml
      moe-search replay task.yaml --policy decision --policy tpe --seeds 50 --json
    """
    from moe_search.experiments.replaying import as_json, read_task, replay_all, table_of

    table = read_task(task)
    names = policy or ["decision", "random", "qlognei"]
    found = replay_all(table, names, seeds=seeds, budget=budget, threshold=threshold, log=note)
    if json:
        print_json(as_json(found))
        return
    out.print(table_of(table, found, threshold=threshold))
