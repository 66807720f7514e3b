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
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log one JSON object a line on stderr, as MOE_SEARCH_LOG=json does.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
