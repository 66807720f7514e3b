"""``moe-search run``: search, fit, recommend, report."""

import shlex
import sys
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note, out, print_json, say, talk, warn
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.cli.options import Json, LogJson, Quiet, Settings, SpecPath


def run(
    spec: SpecPath,
    *,
    settings: Settings = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers to start; 0: all are started elsewhere; default: the file's.", min=0)
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    log_json: LogJson = False,
) -> None:
    """Search, fit scaling laws, recommend a full-scale model and report; the same command resumes.

    Ctrl-C (or SIGTERM) saves the running proxies and exits with 130; `budget.max_minutes` does so with 3. Nothing that
    has finished is ever run again.

    [bold]Examples[/bold]

      moe-search run campaign.yaml
      moe-search run campaign.yaml --set budget.max_minutes=30 --workers 4
      moe-search run campaign.yaml --json > recommendation.json
    """
    from moe_search.experiments.campaign import run_campaign
    from moe_search.experiments.concluding import as_json
    from moe_search.experiments.draining import sigterm_as_ctrl_c
    from moe_search.experiments.logging import bind, start
    from moe_search.experiments.presenting import conclusion_lines, fits_table, recommendation_panel
    from moe_search.experiments.spec.loading import load_spec, shown

    start(as_json=log_json)
    chosen = [*(settings or ()), *([f"workers.count={workers}"] if workers is not None else [])]
    campaign = load_spec(spec, chosen)
    bind(campaign=campaign.name)
    command = shlex.join(["moe-search", *sys.argv[1:]])
    log = (lambda _: None) if quiet else note
    try:
        with sigterm_as_ctrl_c():
            conclusion = run_campaign(campaign, command=command, console=talk, quiet=quiet, log=log, warn=warn)
    except KeyboardInterrupt:
        say("interrupted; the same command continues")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if conclusion is None:
        say(f"stopped after {campaign.budget.max_minutes:g} minutes; the same command continues")
        raise typer.Exit(ExitCode.STOPPED)
    if json:
        print_json(as_json(conclusion.recommendation, conclusion.predictor))
        return
    if conclusion.comparison is not None:
        out.print("[heading]Scaling laws on the held-out largest scale[/heading]")
        out.print(fits_table(list(conclusion.comparison.fits), conclusion.comparison.chosen))
        out.print(f"* {conclusion.comparison.chosen} has {conclusion.comparison.reason}", soft_wrap=True)
    out.print(recommendation_panel(conclusion.recommendation, conclusion.predictor))
    for line in conclusion_lines(conclusion, shown(campaign.folder)):
        out.print(line, soft_wrap=True)
