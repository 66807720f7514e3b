"""MLflow's own pages on a campaign's runs: served for this machine, or where the team's server has them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.projecting import tracking_uri
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.tracking import VIEW, find_experiment
from moe_search.experiments.workspace import Workspace
from moe_search.search.redacting import redacted
from moe_search.spaces.errors import InvalidInputError

QUIET_SERVER = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes and 1.5 GB that no page here needs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}


def runs_page(spec: Spec, workspace: Workspace, *, server: str) -> str:
    """Return the address of the campaign's page of training runs.

    Args:
        spec: the campaign.
        workspace: its folder.
        server: address of the server that shows it.

    Raises:
        InvalidInputError: MLflow knows no such campaign.
        ResourceError: MLflow does not answer.
    """
    uri = tracking_uri(spec, workspace)
    if spec.tracking.uri is None and not workspace.mlflow_database.exists():
        raise InvalidInputError(f"{workspace.folder} has no MLflow runs yet", fix="moe-search run writes them")
    experiment = find_experiment(uri, spec.name)
    if experiment is None:
        raise InvalidInputError(
            f"MLflow at {redacted(uri)} has no experiment {spec.name!r}", fix="moe-search run writes it"
        )
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def server_address(spec: Spec) -> str | None:
    """Return the address of the MLflow server that the campaign is written to, without secrets; None: there is none."""
    uri = urlsplit(looked_up(spec.tracking.uri or "", where="tracking.uri"))
    if uri.scheme not in {"http", "https"}:
        return None
    return urlunsplit((uri.scheme, uri.netloc.rpartition("@")[2], uri.path.rstrip("/"), "", ""))


def serve(spec: Spec, *, host: str, port: int, log: Callable[[str], None]) -> int:
    """Serve until interrupted and return the exit code.

    Args:
        spec: the campaign, kept in a database.
        host: address to listen on.
        port: on it.
        log: told the address.
    """
    workspace = Workspace(spec)
    address = runs_page(spec, workspace, server=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    log(f"MLflow starts on [bold]{address}[/bold] (some seconds; Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [*command, "--uvicorn-opts", "--log-level warning"],
        # Everybody on the machine can read arguments, and the URI of a database may hold a password.
        env=os.environ | QUIET_SERVER | {"MLFLOW_BACKEND_STORE_URI": tracking_uri(spec, workspace)},
        stdout=sys.stderr.fileno(),
        start_new_session=True,  # it has children of its own, which are ended with it
    )
    try:
        while (code := server.poll()) is None:
            time.sleep(0.2)  # a signal that another thread catches does not end a blocking wait
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return ExitCode.INTERRUPTED
    return code
