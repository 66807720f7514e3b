"""``moe-search train``: one proxy, outside a campaign."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json, talk
from moe_search.experiments.cli.options import Json, Quiet, Settings


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML or JSON with design, scale, rules (and corpus, training).", metavar="CONFIG")
    ],
    *,
    tokens: Annotated[
        list[int] | None, typer.Option(help="Training tokens; repeat for several horizons of one trunk.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data order and initial weights.", min=0)] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for checkpoints and runs.parquet; resumes from it.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train one proxy outside a campaign and print what it reached.

    [bold]Examples[/bold]

      moe-search train proxy.yaml --tokens 400000
      moe-search train proxy.yaml --tokens 200000 --tokens 400000 -o runs/one --json
    """
    from moe_search.experiments.single import train_single
    from moe_search.experiments.standing import runs_table

    runs = train_single(
        config, settings or (), horizons=tokens, seed=seed, folder=output, console=None if quiet else talk, log=note
    )
    if json:
        print_json([run.model_dump(mode="json") for run in runs])
    else:
        out.print(runs_table(runs))
