"""``moe-search doctor``: what is active here and why, and what is broken."""

from typing import Annotated

import typer

from moe_search.experiments.cli.console import error, note, out, print_json
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.cli.options import Json


def doctor(
    *,
    build: Annotated[bool, typer.Option("--build", help="Compile now what else is compiled at first use.")] = False,
    json: Json = False,
) -> None:
    """Look at versions, cores, compiler, kernels, GPU and folders; exit 1 with sentences if something is broken.

    For every kernel it says which backend `auto` takes, for each type, and why. It writes nothing but, with --build,
    the compiled libraries.

    [bold]Examples[/bold]

      moe-search doctor
      moe-search doctor --build --json
    """
    from moe_search.experiments.doctor import diagnose, tables

    found = diagnose(compile_now=build)
    if json:
        print_json(found.as_json())
    else:
        for table in tables(found):
            out.print(table)
    for sentence in found.notes:
        note(sentence)
    for sentence in found.problems:
        error(sentence)
    if found.problems:
        raise typer.Exit(ExitCode.FAILED)
