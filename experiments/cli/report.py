"""``moe-search report``: one self-contained HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out
from moe_search.experiments.cli.fit import Mapping, Where


def report(
    source: Annotated[
        Path, typer.Argument(help="A campaign (YAML file or folder), or a table of runs.", metavar="SPEC|RUNS")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    law: Annotated[
        list[str] | None, typer.Option("--law", metavar="NAME", help="Laws to fit; default: the campaign's, or all.")
    ] = None,
    mapping: Mapping = None,
    where: Where = None,
) -> None:
    """Write one offline HTML file: runs, budget, fits with bands, held-out check, mixtures, schedules, recommendation.

    [bold]Examples[/bold]

      moe-search report quickstart -o report.html
      moe-search report chinchilla.csv --law chinchilla --map 'n_total="Model Size"' -o report.html
    """
    from moe_search.experiments.advising import make_report
    from moe_search.experiments.tables import parse_mapping
    from moe_search.experiments.workspace import write_text

    html = make_report(source, laws=law, mapping=parse_mapping(mapping or ()), where=where, log=note)
    write_text(output, html)
    out.print(str(output), soft_wrap=True)
