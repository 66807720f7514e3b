"""One campaign from start to end: plan the room, prepare the text, search with workers, then conclude.

Everything that must survive a crash is in the ledger; this process only starts workers, shows how it goes, and projects
the trial table onto files and MLflow. Killing it at any moment and starting it again ends with the same trial table.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from moe_search.experiments.concluding import Conclusion, conclude
from moe_search.experiments.opening import check_unchanged, open_campaign_corpus, open_ledger, search_problem
from moe_search.experiments.overview import overview
from moe_search.experiments.progress import CampaignProgress
from moe_search.experiments.projecting import Projection
from moe_search.experiments.room import LEAST_TO_GO_ON, LEAST_TO_START, check_room
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.checks import check_possible
from moe_search.experiments.workspace import Workspace
from moe_search.search.launchers import make_launcher
from moe_search.search.launching import Crew, Launcher
from moe_search.search.ledger import Ledger
from moe_search.search.patience import Patience
from moe_search.search.trial import Row
from moe_search.search.worker import next_step

POLL_SECONDS = 0.5


class Stopped(Exception):  # noqa: N818 - it is no error
    """The wall-clock limit was reached; the same command continues."""


def run_campaign(
    spec: Spec,
    *,
    command: str,
    console: Console,
    log: Callable[[str], None],
    warn: Callable[[str], None],
    quiet: bool = False,
) -> Conclusion | None:
    """Run or resume a campaign.

    Args:
        spec: the campaign.
        command: what the user typed, noted in the resolved copy.
        console: where progress is shown.
        log: told what is being done.
        warn: told what went wrong without stopping the work.
        quiet: show no progress.

    Returns:
        What the campaign concludes; None if the wall-clock limit ended it before.

    Raises:
        InvalidInputError, ResourceError: with one sentence for the user.
        KeyboardInterrupt: Ctrl-C, after the workers have saved their state.
    """
    check_possible(spec)
    workspace = Workspace(spec)
    check_room(workspace.folder, LEAST_TO_START, "does not start")
    launcher = make_launcher(spec.workers.launcher, spec.workers.options, _crew(spec, workspace, warn))
    workspace.prepare(spec, command)
    with workspace.locked():
        deadline = time.monotonic() + 60 * spec.budget.max_minutes if spec.budget.max_minutes else None
        corpus = open_campaign_corpus(spec, log)
        problem = search_problem(spec, corpus)
        ledger = open_ledger(spec, workspace, problem)
        check_unchanged(spec, ledger.problem, corpus, warn)
        if spec.workers.count > spec.workers.in_flight:
            warn(
                f"{spec.workers.count} workers share {spec.workers.in_flight} trials in flight, so some wait; "
                "a new campaign may set workers.in_flight"
            )
        try:
            with Projection(spec, workspace, ledger, log=log, warn=warn) as projection:
                try:
                    _search(
                        spec.workers.count,
                        ledger,
                        launcher,
                        projection,
                        folder=workspace.folder,
                        deadline=deadline,
                        progress=CampaignProgress(console, quiet=quiet),
                    )
                except (Stopped, KeyboardInterrupt):
                    projection.update(ledger.rows())
                    raise
                projection.update(ledger.rows())
                _drop_checkpoints(ledger, workspace.checkpoints)
                return conclude(spec, workspace, ledger, projection, log=log)
        except Stopped:  # only here: an interrupted projection does not wait long for an MLflow server that is away
            return None


def _crew(spec: Spec, workspace: Workspace, warn: Callable[[str], None]) -> Crew:
    """Return what a launcher has to know about a campaign's workers."""
    return Crew(
        name=spec.name,
        arguments=("-m", "moe_search", "worker", str(workspace.spec_file.resolve())),
        folder=workspace.folder.resolve(),
        logs=workspace.logs.resolve(),
        threads=spec.workers.threads,
        grace_seconds=spec.workers.grace_seconds,
        warn=warn,
    )


def _search(
    count: int,
    ledger: Ledger,
    launcher: Launcher,
    projection: Projection,
    *,
    folder: Path,
    deadline: float | None,
    progress: CampaignProgress,
) -> None:
    """Keep workers at work until they find nothing left to do; where none are ours, wait for those that are elsewhere.

    Raises:
        Stopped: the wall-clock limit was reached.
        ResourceError: the disk is nearly full; the workers have saved their state.
    """
    patient = Patience()
    rows = patient(ledger.rows)
    if _is_over(ledger, rows):
        return
    with progress:
        try:
            launcher.start(count)
            ended = 0
            while True:
                check_room(folder, LEAST_TO_GO_ON, "pauses, with its proxies saved")
                alive = launcher.tend()
                rows = patient(ledger.rows)
                progress.update(patient(overview, ledger, rows))
                projection.update(rows)
                if count and not alive:
                    return
                ended, before = sum(not row.is_open for row in rows), ended
                if not count and ended != before and _is_over(ledger, rows):
                    return
                if deadline is not None and time.monotonic() > deadline:
                    raise Stopped
                time.sleep(POLL_SECONDS)
        finally:
            launcher.stop()


def _is_over(ledger: Ledger, rows: Sequence[Row]) -> bool:
    """Say whether every trial has its result and nothing more is to be proposed; takes as long as a proposal."""
    return bool(rows) and not any(row.is_open for row in rows) and next_step(ledger.problem, rows) == "done"


def _drop_checkpoints(ledger: Ledger, checkpoints: Path) -> None:
    """Delete what finished trials would resume from."""
    for row in ledger.rows():
        if not row.is_open:
            shutil.rmtree(checkpoints / row.trial.run_key, ignore_errors=True)
