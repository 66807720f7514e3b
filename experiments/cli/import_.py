"""``moe-search import``: somebody else's runs into the runs table."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json, warn
from moe_search.experiments.cli.fit import Mapping, Where
from moe_search.experiments.cli.options import Json


def import_(
    kind: Annotated[str, typer.Argument(help="csv, mlflow or wandb.", metavar="KIND")],
    places: Annotated[list[str], typer.Argument(help="Files; for mlflow a URI, database or folder.", metavar="SOURCE")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file.")],
    mapping: Mapping = None,
    where: Where = None,
    join: Annotated[
        list[str] | None, typer.Option("--join", metavar="KEY", help="csv: join the files by this column. Repeatable.")
    ] = None,
    last_of: Annotated[
        str | None, typer.Option("--last-of", metavar="EXPR", help="A table of curves: keep each run's last step.")
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", metavar="EXPR", help="What --last-of takes as step; default: step.")
    ] = None,
    experiment: Annotated[
        list[str] | None, typer.Option("--experiment", metavar="NAME", help="mlflow: only this one. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a runs table from a table, an MLflow store or a W&B export, and say what was mapped, derived and dropped.

    [bold]Examples[/bold]

      moe-search import csv sizes.csv losses.csv --join run
        --map 'n_total="params (M)" * 1e6' -o runs.parquet
      moe-search import mlflow sqlite:///mlflow.db --experiment sweep
        --map 'loss="metrics.val_loss"' -o runs.parquet
      moe-search import wandb export.jsonl --map 'loss="summary.val/loss"' -o runs.parquet
    """
    from moe_search.experiments.importers import Source
    from moe_search.experiments.importing import import_runs
    from moe_search.experiments.presenting import import_table
    from moe_search.experiments.tables import parse_mapping

    source = Source(places=tuple(places), join=tuple(join or ()), experiments=tuple(experiment or ()))
    done = import_runs(
        kind, source, output, mapping=parse_mapping(mapping or ()), where=where, last_of=last_of, step=step
    )
    for line in done.notes:
        note(line)
    for line in done.warnings:
        warn(line)
    if json:
        print_json(done.to_json())
        return
    out.print(import_table(done))
