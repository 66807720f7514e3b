"""MLflow: the only module that writes it; somebody else's stores are read by the importer.

What a person sees there is a projection of the trial table, written by one process at a time and rebuilt at will: one
parent run for the campaign, one child for each ended trial, keyed by tags, so that writing twice changes nothing. A
child exists only once its trial has ended and is closed in the same breath; the parent stands at SCHEDULED (more to
come) until the campaign is done. A kill between a child's creation and its end leaves one RUNNING until the next `run`
closes it: MLflow cannot create a closed run.

A request that was not answered may have been carried out. After every error the children are therefore looked up again
before anything is written, and never is a request repeated blindly.
"""

import json
import logging
import os
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # MLflow repeats what creates a run, too: two runs for one trial
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is for data

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from moe_search.experiments.tracked import Picture, RefusedError, TrackedTrial
from moe_search.search.redacting import redacted
from moe_search.spaces.errors import ResourceError

_ENTRIES_A_BATCH = 1000  # metrics, parameters and tags together; the server takes no more
_PARAMS_A_RUN = 40
_TRIAL = "moe_search.trial"
_CONTENT = "moe_search.content"
_CAMPAIGN = "moe_search.campaign"
_WRITER = "moe_search.writer"
_FINAL = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "INVALID_PARAMETER_VALUE"}
"""MLflow's codes for what no repetition mends."""
VIEW = "moe-search"
"""Key of the shared view of the page of runs that comes with a campaign."""


class Child(NamedTuple):
    """The run of one trial, as the store has it."""

    run_id: str
    artifacts: str
    """Where its artifacts go."""
    content: str = ""
    """Hash of what it shows; empty if it was not written to the end."""


class Tracker:
    """The campaign's experiment in one MLflow store.

    Args:
        uri: tracking URI; for ``sqlite:///...`` its folder must exist.
        campaign: name of the experiment and of the parent run.
        key: what identifies the campaign within the experiment.
        artifacts: where artifacts go when the store is a database.
        tags: tags of the parent run.

    Raises:
        RefusedError: the store cannot be used, now or later.
        ResourceError: it cannot be reached or written.
    """

    def __init__(self, uri: str, campaign: str, *, key: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._uri, self._me = uri, uuid.uuid4().hex
        self._known: dict[int, Child] | None = None
        with self._errors():
            self._client = MlflowClient(tracking_uri=uri)
            self.experiment_id = self._experiment(campaign, artifacts if _is_database(uri) else None)
            self.parent_id = self._parent(campaign, key, tags)
            self._client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{VIEW}", _view())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what MLflow, its database and its artifact store raise into one sentence."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            self._known = None  # whatever failed may have been done all the same
            kind = RefusedError if _is_final(error) else ResourceError
            raise kind(f"MLflow at {redacted(self._uri)} cannot be used: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        reason = str(getattr(error, "orig", None) or getattr(error, "message", None) or error)
        return (reason.splitlines() or [type(error).__name__])[0].replace(
            self._uri.rstrip("/"), redacted(self._uri).rstrip("/")
        )

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        existing = self._client.get_experiment_by_name(name)
        if existing is None:
            location = artifacts.resolve().as_uri() if artifacts else None
            kind = {"mlflow.experimentKind": "custom_model_development"}  # opens the page of training runs
            try:
                return str(self._client.create_experiment(name, artifact_location=location, tags=kind))
            except MlflowException as error:
                existing = self._client.get_experiment_by_name(name)  # another campaign of that name was faster
                if existing is None:
                    raise error
        if existing.lifecycle_stage == "deleted":
            self._client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)

    def _parent(self, name: str, key: str, tags: Mapping[str, str]) -> str:
        found = self._search(f"tags.`{_CAMPAIGN}` = '{key}'")
        if found:
            run_id = self._first_of(found).info.run_id
            self._client.update_run(run_id, status="SCHEDULED")
        else:
            labels = {_CAMPAIGN: key, "kind": "campaign"}
            run_id = self._client.create_run(self.experiment_id, run_name=name, tags=labels).info.run_id
            self._client.update_run(run_id, status="SCHEDULED")
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return str(run_id)

    def _search(self, wanted: str) -> list[Run]:
        """Return all runs of the experiment that a filter wants."""
        found, token = list[Run](), None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                wanted,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _first_of(self, same: Sequence[Run]) -> Run:
        """Return which of the runs for one thing is kept; a request believed lost has left the others, which go."""
        kept, *others = sorted(same, key=lambda run: (_CONTENT not in run.data.tags, run.info.run_id))
        for run in others:
            self._client.delete_run(run.info.run_id)
        return kept

    def _children(self) -> dict[int, Child]:
        """Return the child of every trial that has one; close those that a kill left open."""
        by_trial: dict[int, list[Run]] = {}
        for run in self._search(f"tags.mlflow.parentRunId = '{self.parent_id}'"):
            if run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, "KILLED")
            by_trial.setdefault(int(run.data.tags[_TRIAL]), []).append(run)
        return {number: _child(self._first_of(runs)) for number, runs in by_trial.items()}

    def show(self, picture: Picture, written: Callable[[], None]) -> None:
        """Bring the store up to ``picture``; see :class:`moe_search.experiments.mirroring.Store`."""
        self.sync(picture.trials, written)
        self.summarise(tags=picture.tags, metrics=picture.metrics, step=len(picture.trials))
        self.attach([path for path in picture.files if path.exists()])
        if picture.is_done:
            self.finish()

    def sync(self, trials: Sequence[TrackedTrial], written: Callable[[], None] = lambda: None) -> int:
        """Bring the children up to the table and return how many were written, calling ``written`` after each."""
        with self._errors():
            known = self._current()
            shown = {number: child.content for number, child in known.items()}
            missing = [trial for trial in trials if shown.get(trial.number) != trial.content]
            for trial in missing:
                self._write(trial)
                written()
        return len(missing)

    def _current(self) -> dict[int, Child]:
        """Return the children, looked up again where another process has written in between."""
        parent = self._client.get_run(self.parent_id)
        if self._known is None or parent.data.tags.get(_WRITER) != self._me:
            self._known = self._children()
            self._client.set_tag(self.parent_id, _WRITER, self._me)
        return self._known

    def _write(self, trial: TrackedTrial) -> None:
        if len(trial.params) >= _PARAMS_A_RUN:
            raise AssertionError(f"{len(trial.params)} parameters drown the page of runs")
        assert self._known is not None
        known = self._known.get(trial.number)
        if known is not None and known.content:  # of another version of ours: parameters cannot be changed
            self._client.delete_run(known.run_id)
            known = None
        child = known or self._create(trial)
        run_id = child.run_id
        ended = "FINISHED" if trial.status == "finished" else "FAILED"
        self._client.set_terminated(run_id, ended, end_time=int(trial.end * 1000))
        self._attach_texts(child.artifacts, trial.artifacts)
        stamp = int(trial.end * 1000)
        metrics = [
            Metric(name, value, stamp, tokens) for name, points in trial.metrics.items() for tokens, value in points
        ]
        params = [Param(name, value) for name, value in trial.params.items()]
        # The content's hash comes with the last batch: without it the run is written again.
        tags = [RunTag(name, value) for name, value in {**trial.tags, _CONTENT: trial.content}.items()]
        room = _ENTRIES_A_BATCH - len(params) - len(tags)
        first = max(len(metrics) - room, 0)
        for start in range(0, first, _ENTRIES_A_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : min(start + _ENTRIES_A_BATCH, first)])
        self._client.log_batch(run_id, metrics=metrics[first:], params=params, tags=tags)
        self._known[trial.number] = child._replace(content=trial.content)

    def _create(self, trial: TrackedTrial) -> Child:
        tags = {"mlflow.parentRunId": self.parent_id, _TRIAL: str(trial.number), "kind": "trial"}
        run = self._client.create_run(
            self.experiment_id,
            start_time=int(trial.start * 1000),
            run_name=trial.name,
            tags={**tags, "status": trial.status},
        )
        return _child(run)

    def summarise(self, *, tags: Mapping[str, str], metrics: Mapping[str, float], step: int) -> None:
        """Write the campaign's own tags and numbers (best loss, spent budget) to the parent."""
        stamp = int(time.time() * 1000)
        with self._errors():
            self._client.log_batch(
                self.parent_id,
                metrics=[Metric(name, value, stamp, step) for name, value in metrics.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )

    def attach(self, files: Sequence[Path]) -> None:
        """Copy files beside the parent run."""
        with self._errors():
            for path in files:
                self._client.log_artifact(self.parent_id, str(path))

    def attach_texts(self, texts: Mapping[str, str]) -> None:
        """Put texts beside the parent run, by file name."""
        with self._errors():
            self._attach_texts(self._client.get_run(self.parent_id).info.artifact_uri, texts)

    def _attach_texts(self, place: str, texts: Mapping[str, str]) -> None:
        """Write texts to a run's place for artifacts; MLflow's client would ask the server again where that is."""
        if not texts:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            get_artifact_repository(place, tracking_uri=self._uri).log_artifacts(folder)  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Mark the campaign as done."""
        with self._errors():
            self._client.set_terminated(self.parent_id, "FINISHED")


def _child(run: Run) -> Child:
    return Child(run.info.run_id, run.info.artifact_uri, run.data.tags.get(_CONTENT, ""))


def _view() -> str:
    """Return the state of MLflow's page of runs: the trials, least loss first, with the columns that matter."""
    tags = ("n_active", "tokens", "granularity", "activation_ratio", "experts", "schedule", "router", "status")
    columns = ["metrics.`bpb`", *(f"tags.`{name}`" for name in tags)]
    state = {
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": "metrics.`bpb`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
    }
    return json.dumps(state)


def _is_database(uri: str) -> bool:
    """Say whether runs go to a database directly, so that MLflow has no place of its own for artifacts."""
    return not uri.startswith(("http://", "https://", "databricks"))


def _is_final(error: Exception) -> bool:
    """Say whether trying again is of no use."""
    if isinstance(error, MlflowException):
        return error.error_code in _FINAL
    broken = getattr(error, "orig", None)
    no_database = isinstance(broken, sqlite3.DatabaseError) and not isinstance(broken, sqlite3.OperationalError)
    no_entry = getattr(getattr(error, "response", None), "status_code", None) in {401, 403}
    return no_database or no_entry or isinstance(error, ImportError | ArgumentError)


def find_experiment(uri: str, name: str) -> str | None:
    """Return the id of the experiment called ``name``, or None.

    Raises:
        ResourceError: the store does not answer or cannot be read.
    """
    try:
        experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or getattr(error, "message", None) or error).splitlines()[0]
        shown = reason.replace(uri.rstrip("/"), redacted(uri).rstrip("/"))
        raise ResourceError(f"MLflow at {redacted(uri)} cannot be read: {shown}") from error
    return None if experiment is None else str(experiment.experiment_id)
