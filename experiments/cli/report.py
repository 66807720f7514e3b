"""``moe-search report``: one self-contained HTML file, its numbers as JSON, and the laws on each run as CSV."""

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
    holdout: Annotated[
        str | None,
        typer.Option("--holdout", metavar="EXPR", help="Judge laws on these rows; default: the largest scale."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="EXPR", help="The unit that is resampled; default: one run.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column of losses; default: bpb where there is one, else loss."),
    ] = None,
) -> None:
    """Write one offline HTML file: runs, equations, fits with intervals, held-out errors, residuals, sensitivity.

    Beside it, under the same name: all its numbers (.json), and what each law says about each run (.csv).

    [bold]Examples[/bold]

      moe-search report quickstart -o report.html
      moe-search report chinchilla.csv --law chinchilla --map 'n_total="Model Size"' -o report.html
    """
    from moe_search.experiments.advising import make_report
    from moe_search.experiments.reporting import write_report
    from moe_search.experiments.tables import parse_mapping

    data = make_report(
        source,
        laws=law,
        mapping=parse_mapping(mapping or ()),
        where=where,
        holdout=holdout,
        cluster=cluster,
        objective=objective,
        log=note,
    )
    page, numbers, table = write_report(output, data)
    note(f"wrote all numbers of the page to {numbers}, and the laws' predictions of each run to {table}")
    out.print(str(page), soft_wrap=True)
