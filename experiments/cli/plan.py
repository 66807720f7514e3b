"""``moe-search plan``: what a campaign would do and cost, and what it may be expected to find."""

from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json
from moe_search.experiments.cli.options import Json, Settings, SpecPath


def plan(
    spec: SpecPath,
    *,
    settings: Settings = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Play the search in drawn worlds: the expected regret of the budget.")
    ] = False,
    worlds: Annotated[int, typer.Option(help="Drawn worlds of the rehearsal.", min=1)] = 8,
    json: Json = False,
) -> None:
    """Print every proxy of the initial design, its size, FLOPs, time and memory, and what the rest may be.

    Trains nothing and writes nothing. Times come from the campaign's own runs where there are any, else from the
    machine's table of measured shapes (`moe-search bench --store`), else from a second of calibration. --rehearse takes
    about a minute of CPU time a world: the whole search plays with half, once and twice the budget.

    [bold]Examples[/bold]

      moe-search plan campaign.yaml
      moe-search plan campaign.yaml --rehearse --worlds 20
      moe-search plan campaign.yaml --set budget.train_flops=1e15 --json
    """
    from moe_search.experiments.calibration import machine_speed
    from moe_search.experiments.opening import planned_problem
    from moe_search.experiments.planning import plan_campaign
    from moe_search.experiments.rehearsal import rehearse as play
    from moe_search.experiments.rehearsal_table import rehearsal_renderables
    from moe_search.experiments.spec.checks import check_possible
    from moe_search.experiments.spec.loading import load_spec
    from moe_search.experiments.standing import plan_renderables

    campaign = load_spec(spec, settings or ())
    check_possible(campaign)
    problem = planned_problem(campaign)
    seconds, speed = machine_speed(campaign, problem, log=note)
    planned = plan_campaign(campaign, problem, seconds, speed=speed)
    if not json:
        for part in plan_renderables(planned):
            out.print(part)
    rehearsal = play(problem, worlds, log=note) if rehearse else None
    if json:
        print_json(
            {
                "name": campaign.name,
                **planned.as_json(),
                "rehearsal": None if rehearsal is None else rehearsal.as_json(),
            }
        )
    elif rehearsal is not None:
        for part in rehearsal_renderables(rehearsal):
            out.print(part)
