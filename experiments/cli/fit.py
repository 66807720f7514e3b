"""``moe-search fit``: scaling laws on any table of runs."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from moe_search.experiments.cli.console import note, out, print_json, warn
from moe_search.experiments.cli.options import Json

RunsPath = Annotated[Path, typer.Argument(help="Parquet, CSV or JSONL (plain or gzip), or a campaign.", metavar="RUNS")]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAME=EXPR", help="A canonical column as a Polars SQL expression. Repeatable."),
]
Where = Annotated[str | None, typer.Option("--where", metavar="EXPR", help="Keep only rows for which this is true.")]

_ASK: Final[dict[str, Any]] = {"rich_help_panel": "Questions to the fit"}


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
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile the likelihood: a second interval of each parameter.", **_ASK)
    ] = False,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="NAME=NUMBER,...", help="Forecast this model. Repeatable.", **_ASK),
    ] = None,
    asymptote: Annotated[
        list[float] | None,
        typer.Option("--asymptote", metavar="LOSS", help="Forecast with this irreducible loss, too.", **_ASK),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="EXPR", help="Speedup of these runs over the first such group.", **_ASK),
    ] = None,
    shared_asymptote: Annotated[
        bool, typer.Option("--shared-asymptote", help="The compared groups have one irreducible loss.", **_ASK)
    ] = False,
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

      moe-search fit table.csv --law compute --at train_flops=1e24 --asymptote 1.7

      moe-search fit table.csv --law compute:E=integrated --compare "router = 'none'"
        --compare "router = 'softmax_topk'" --shared-asymptote
    """
    from dataclasses import replace

    from moe_search.experiments.answering import Fitter, Questions
    from moe_search.experiments.answers import answer_tables, notes_on, warnings_on
    from moe_search.experiments.asking import parse_asked
    from moe_search.experiments.comparing import groups_of
    from moe_search.experiments.presenting import fits_table, parameters_table
    from moe_search.experiments.tables import parse_mapping, read_table
    from moe_search.experiments.workspace import write_text
    from moe_search.scaling.censoring import parse_censored
    from moe_search.scaling.laws import get_law
    from moe_search.scaling.regressions import find_regression
    from moe_search.scaling.regressions.choice import cross_validate
    from moe_search.spaces.errors import InvalidInputError

    names = list(dict.fromkeys(law))
    laws = [get_law(name) for name in names if not (folds and find_regression(name))]
    if not laws:
        raise InvalidInputError("a regression is compared with laws", where="--law", fix="--law mixture beside it")
    table = read_table(runs, mapping=parse_mapping(mapping or ()), where=where)
    for line in table.notes:
        note(line)
    questions = Questions(
        asked=parse_asked(at or (), table.frame),
        asymptotes=tuple(asymptote or ()),
        groups=groups_of(compare) if compare else (),
        shared=shared_asymptote,
    )
    questions.check(laws, resamples)
    fitter = Fitter(
        table.frame,
        objective=objective,
        holdout=holdout,
        cluster=cluster,
        resampling=resampling,
        censored=parse_censored(censored),
        resamples=resamples,
        seed=seed,
    )
    fits = [fitter.fit(each, profiles=profile) for each in laws]
    fits = [replace(one, warnings=tuple(dict.fromkeys((*table.warnings, *one.warnings)))) for one in fits]
    answers = [fitter.answer(questions, one) for one in fits]
    best = min(fits, key=lambda one: one.holdout.mape if one.holdout else one.objective)
    if output is not None:
        write_text(output, best.to_file_text())
        note(f"wrote the fit of {best.law.name} to {output}")
    judged = None
    if folds:
        judged = cross_validate(names, table.frame, objective=objective, cluster=cluster, folds=folds, seed=seed)
    for line in warnings_on(fits):
        warn(line)
    for line in (*notes_on(fitter, answers), *(judged.sentences() if judged else ())):
        note(line)
    if json:
        of_law = {one.name: one.to_json() for one in judged.results} if judged else {}
        content = [one.to_json() | {"cross_validation": of_law.pop(one.fitted.law.name, None)} for one in answers]
        print_json([*content, *({"law": name, "cross_validation": of_law[name]} for name in of_law)])
        return
    parameters = (parameters_table(one) for one in fits)
    asked = (drawn for one in answers for drawn in answer_tables(one, fitter.fitted_to))
    for drawn in (*parameters, fits_table(fits, best.law.name if len(fits) > 1 else ""), *asked):
        out.print(drawn)
    for one in fits:
        for group in one.unidentifiable:
            warn(f"{one.law.name}: {', '.join(group.parameters)} cannot be identified: {group.reason}{group.advice}")
