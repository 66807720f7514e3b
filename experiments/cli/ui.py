"""``moe-search ui``: MLflow on this campaign, in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from moe_search.experiments.cli.console import out, talk, warn

LOOPBACK = ("127.", "::1", "localhost")


def ui(
    spec: Annotated[Path, typer.Argument(help="The campaign's YAML file or folder.", metavar="SPEC")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1024, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on; by default this machine alone is served.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Serve MLflow on this campaign's runs, on this machine only; Ctrl-C ends it.

    A campaign that is tracked by an MLflow server has its page there: its address is printed.

    [bold]Example[/bold]

      moe-search ui quickstart/campaign.yaml --port 5055
    """
    from moe_search.experiments.browsing import runs_page, serve, server_address
    from moe_search.experiments.spec.loading import load_spec
    from moe_search.experiments.workspace import Workspace

    campaign = load_spec(spec)
    server = server_address(campaign)
    if server is not None:
        out.print(runs_page(campaign, Workspace(campaign), server=server), soft_wrap=True)
        return
    if not host.startswith(LOOPBACK):
        warn(f"whoever reaches {host}:{port} can read and change these runs; MLflow asks for no password")
    code = serve(campaign, host=host, port=port, log=lambda text: talk.print(text, soft_wrap=True))
    raise typer.Exit(code)
