"""``moe-search ui``: MLflow on this campaign, in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import talk


def ui(
    spec: Annotated[Path, typer.Argument(help="The campaign's YAML file or folder.", metavar="SPEC")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1024, max=65535)] = 5000,
) -> None:
    """Serve MLflow on this campaign's runs, on this machine only; Ctrl-C ends it.

    [bold]Example[/bold]

      moe-search ui quickstart/campaign.yaml --port 5055
    """
    from moe_search.experiments.browsing import serve
    from moe_search.experiments.spec.loading import load_spec

    raise typer.Exit(serve(load_spec(spec), port=port, log=lambda text: talk.print(text, soft_wrap=True)))
