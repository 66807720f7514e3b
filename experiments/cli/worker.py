"""``moe-search worker``: one more worker on a campaign's storage."""

import os
import socket
from typing import Annotated

import typer

from moe_search.experiments.cli.console import note
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.cli.options import LogJson, SpecPath


def worker(
    spec: SpecPath,
    *,
    log_json: LogJson = False,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Stop when this process is gone.")] = None,
) -> None:
    """Train proxies of a campaign that `moe-search run` has started, on this or any machine, until there is no more.

    Several machines need a database as storage (`storage: postgresql+psycopg://...`) and the campaign's resolved
    campaign.yaml. Ctrl-C or SIGTERM saves the running proxy and exits with 130, within `workers.grace_seconds`.

    [bold]Example[/bold]

      moe-search worker quickstart/campaign.yaml
    """
    from moe_search.experiments.draining import leave_within
    from moe_search.experiments.evaluate import Stop
    from moe_search.experiments.logging import bind, start
    from moe_search.experiments.spec.loading import load_spec
    from moe_search.experiments.wording import counted
    from moe_search.experiments.working import work_on

    start(as_json=log_json)
    stop = Stop(parent)
    stop.listen()
    campaign = load_spec(spec)
    leave_within(campaign.workers.grace_seconds, stop)
    owner = f"{socket.gethostname()}:{os.getpid()}"
    bind(campaign=campaign.name, worker=owner)
    done = work_on(campaign, owner=owner, stop=stop, log=note)
    if stop():
        raise typer.Exit(ExitCode.INTERRUPTED)
    note(f"{counted(done, 'proxy', 'proxies')} trained; nothing is left to do")
