"""``moe-search fit``: scaling laws on any table of runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe_search.experiments.cli.console import note, out, print_json, warn
from moe_search.experiments.cli.options import Json

RunsPath = Annotated[Path, typer.Argument(help="Parquet, CSV or JSONL (plain or gzip), or a campaign.", metavar="RUNS")]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=EXPR", help="A canonical column as a Polars SQL expression. Repeatable."),
]
Where = Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Keep only rows for which this is true.")]


def fit(
    runs: RunsPath,
    *,
    law: Annotated[
        list[str], typer.Option("--law", metavar="NAME", help="A law or, with --folds, a regression. Repeatable.")
    ],
    mapping: Mapping = None,
    where: Where = None,
    holdout: Annotated[
        str | None, typer.Option("--holdout", metavar="EXPR", help="Predict these rows instead of fitting them.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="EXPR", help="The unit that is resampled; default: one run.")
    ] = None,
    resampling: Annotated[
        Literal["auto", "pairs", "wild", "residual"],
        typer.Option(help="What a resample is: runs drawn whole (pairs), or their residuals flipped or dealt anew."),
    ] = "auto",
    censored: Annotated[
        str, typer.Option(metavar="STATUS,...", help="Statuses whose loss is a bound: truncated, diverged; or none.")
    ] = "truncated",
    objective: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column of losses; default: bpb where there is one, else loss."),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Deal the runs into so many folds and predict each from the others.", min=0)
    ] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for the intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Of starts and resamples.", min=0)] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the fit for `recommend` (the best law's, if several).")
    ] = None,
    json: Json = False,
) -> None:
    """Fit scaling laws to a table of runs: intervals, held-out error, what the data cannot identify.

    [bold]Examples[/bold]

      moe-search fit quickstart --law joint_moe --law chinchilla --cluster trial

      moe-search fit table.csv --law chinchilla --map 'n_total="Model Size"'
        --map 'train_flops="Training FLOP"' --map 'tokens=train_flops/(6*n_total)'
        --map 'loss=loss' --holdout 'train_flops > 1e21' --json
    """
    from dataclasses import replace

    from moe_search.experiments.presenting import fits_table, parameters_table, warning_lines
    from moe_search.experiments.tables import parse_mapping, read_table
    from moe_search.experiments.workspace import write_text
    from moe_search.scaling.calibration import widen
    from moe_search.scaling.censoring import parse_censored
    from moe_search.scaling.fit import fit as fit_law
    from moe_search.scaling.laws import get_law
    from moe_search.scaling.regressions import find_regression
    from moe_search.scaling.regressions.choice import cross_validate
    from moe_search.scaling.validation import told_apart
    from moe_search.spaces.errors import InvalidInputError

    names = list(dict.fromkeys(law))
    laws = [get_law(name) for name in names if not (folds and find_regression(name))]
    if not laws:
        raise InvalidInputError("a regression is compared with laws", where="--law", fix="--law mixture beside it")
    table = read_table(runs, mapping=parse_mapping(mapping or ()), where=where)
    for line in table.notes:
        note(line)
    fits = [
        fit_law(
            each,
            table.frame,
            objective=objective,
            holdout=holdout,
            cluster=cluster,
            resampling=resampling,
            censored=parse_censored(censored),
            resamples=resamples,
            seed=seed,
        )
        for each in laws
    ]
    fits = [widen(one, table.frame, holdout=holdout, cluster=cluster, seed=seed) for one in fits]
    fits = [replace(one, warnings=tuple(dict.fromkeys((*table.warnings, *one.warnings)))) for one in fits]
    best = min(fits, key=lambda one: one.holdout.mape if one.holdout else one.objective)
    if output is not None:
        write_text(output, best.to_file_text())
        note(f"wrote the fit of {best.law.name} to {output}")
    for line in dict.fromkeys(line for one in fits for line in one.notes):
        note(line)
    for line in warning_lines(fits):
        warn(line)
    for line in told_apart(fits, table.frame, holdout=holdout, cluster=cluster):
        note(line)
    judged = None
    if folds:
        judged = cross_validate(names, table.frame, objective=objective, cluster=cluster, folds=folds, seed=seed)
        for line in judged.sentences():
            note(line)
    if json:
        of_law = {one.name: one.to_json() for one in judged.results} if judged else {}
        content = [one.to_json() | {"cross_validation": of_law.pop(one.law.name, None)} for one in fits]
        print_json([*content, *({"law": name, "cross_validation": of_law[name]} for name in of_law)])
        return
    for one in fits:
        out.print(parameters_table(one))
    out.print(fits_table(fits, best.law.name if len(fits) > 1 else ""))
    for one in fits:
        for group in one.unidentifiable:
            warn(f"{one.law.name}: {', '.join(group.parameters)} cannot be identified: {group.reason}{group.advice}")
