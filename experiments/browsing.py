"""MLflow's own pages on a campaign's runs, served on this machine only."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.projecting import tracking_uri
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.tracking import VIEW, find_experiment
from moe_search.experiments.workspace import Workspace
from moe_search.spaces.errors import InvalidInputError

QUIET_SERVER = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes and 1.5 GB that no page here needs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}


def runs_page(spec: Spec, workspace: Workspace, *, port: int) -> str:
    """Return the address of the campaign's page of training runs.

    Raises:
        InvalidInputError: MLflow knows no such campaign.
    """
    uri = tracking_uri(spec, workspace)
    if spec.tracking.uri is None and not workspace.mlflow_database.exists():
        raise InvalidInputError(f"{workspace.folder} has no MLflow runs yet", fix="moe-search run writes them")
    experiment = find_experiment(uri, spec.name)
    if experiment is None:
        raise InvalidInputError(f"MLflow at {uri} has no experiment {spec.name!r}", fix="moe-search run writes it")
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?{query}"


def serve(spec: Spec, *, port: int, log: Callable[[str], None]) -> int:
    """Serve until interrupted and return the exit code.

    Args:
        spec: the campaign.
        port: on 127.0.0.1.
        log: told the address.
    """
    workspace = Workspace(spec)
    address = runs_page(spec, workspace, port=port)
    log(f"MLflow starts on [bold]{address}[/bold] (some seconds; Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [*command, "--uvicorn-opts", "--log-level warning", "--backend-store-uri", tracking_uri(spec, workspace)],
        env=os.environ | QUIET_SERVER,
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
