"""Arguments and options that several verbs share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

SpecPath = Annotated[
    Path, typer.Argument(help="The campaign's YAML file, or a folder with a campaign.yaml.", metavar="SPEC")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a field; the value is YAML. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
