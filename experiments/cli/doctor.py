"""``moe-search doctor``: what is active here and why, and what is broken."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import error, note, out, print_json
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.cli.options import Json


def doctor(
    spec: Annotated[Path | None, typer.Argument(help="Also look at what this campaign needs.", metavar="SPEC")] = None,
    *,
    build: Annotated[bool, typer.Option("--build", help="Compile now what else is compiled at first use.")] = False,
    json: Json = False,
) -> None:
    """Look at versions, cores, compiler, kernels, GPU and folders; exit 1 with sentences if something is broken.

    For every kernel it says which backend `auto` takes, for each type, and why. It writes nothing but, with --build,
    the compiled libraries. With SPEC it also asks the campaign's storage (version, latency, clock) and MLflow server.

    [bold]Examples[/bold]

      moe-search doctor
      moe-search doctor --build --json
      moe-search doctor campaign.yaml
    """
    from moe_search.experiments.campaign_health import examine, table
    from moe_search.experiments.doctor import diagnose, tables
    from moe_search.experiments.spec.loading import load_spec

    campaign = load_spec(spec) if spec is not None else None
    found = diagnose(compile_now=build)
    if campaign is not None:
        examine(campaign, found)
    if json:
        print_json(found.as_json())
    else:
        for part in [*tables(found), *(table(found) if found.campaign else ())]:
            out.print(part)
    for sentence in found.notes:
        note(sentence)
    for sentence in found.problems:
        error(sentence)
    if found.problems:
        raise typer.Exit(ExitCode.FAILED)
