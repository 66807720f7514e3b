"""MLflow: the only module that writes it; somebody else's stores are read by the importer.

What a person sees there is a projection of the trial table, written by one process and rebuilt at will: one parent run
for the campaign, one child for each ended trial, keyed by tags, so that writing twice changes nothing. A child exists
only once its trial has ended and is closed in the same breath; the parent stands at SCHEDULED (more to come) until the
campaign is done. So no run is ever left RUNNING, whatever is killed.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from moe_search.experiments.tracked import TrackedTrial
from moe_search.spaces.errors import ResourceError

_METRICS_A_BATCH = 900  # the server takes 1000
_PARAMS_A_RUN = 40
_TRIAL = "moe_search.trial"
_CONTENT = "moe_search.content"
_CAMPAIGN = "moe_search.campaign"
VIEW = "moe-search"
"""Key of the shared view of the page of runs that comes with a campaign."""


class Tracker:
    """The campaign's experiment in one MLflow store.

    Args:
        uri: tracking URI; for ``sqlite:///...`` its folder must exist.
        campaign: name of the experiment and of the parent run.
        key: what identifies the campaign within the experiment.
        artifacts: where artifacts go when the store is a database.
        tags: tags of the parent run.

    Raises:
        ResourceError: the store cannot be reached or written.
    """

    def __init__(self, uri: str, campaign: str, *, key: str, artifacts: Path, tags: Mapping[str, str]) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._uri = uri
        with self._errors():
            self._client = MlflowClient(tracking_uri=uri)
            self.experiment_id = self._experiment(campaign, artifacts if uri.startswith("sqlite:") else None)
            self.parent_id = self._parent(campaign, key, tags)
            self._known = self._children()
            self._client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{VIEW}", self._view())

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what MLflow and its database raise into one sentence."""
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            reason = getattr(error, "orig", None) or getattr(error, "message", None) or error
            raise ResourceError(f"MLflow at {self._uri} cannot be used: {str(reason).splitlines()[0]}") from error

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        existing = self._client.get_experiment_by_name(name)
        if existing is not None:
            if existing.lifecycle_stage == "deleted":
                self._client.restore_experiment(existing.experiment_id)
            return str(existing.experiment_id)
        location = artifacts.resolve().as_uri() if artifacts else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # opens the page of training runs
        return str(self._client.create_experiment(name, artifact_location=location, tags=kind))

    def _parent(self, name: str, key: str, tags: Mapping[str, str]) -> str:
        found = self._client.search_runs(
            [self.experiment_id], f"tags.`{_CAMPAIGN}` = '{key}'", run_view_type=ViewType.ACTIVE_ONLY, max_results=1
        )
        if found:
            run_id = found[0].info.run_id
        else:
            run = self._client.create_run(self.experiment_id, run_name=name, tags={_CAMPAIGN: key, "kind": "campaign"})
            run_id = run.info.run_id
        self._client.update_run(run_id, status="SCHEDULED")
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        return str(run_id)

    def _view(self) -> str:
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

    def _children(self) -> dict[int, tuple[str, str]]:
        """Return run and content of every child that exists, by trial; close those a kill left open."""
        known, token = {}, None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                f"tags.mlflow.parentRunId = '{self.parent_id}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            for run in page:
                if run.info.status == "RUNNING":
                    self._client.set_terminated(run.info.run_id, "KILLED")
                known[int(run.data.tags[_TRIAL])] = (run.info.run_id, run.data.tags.get(_CONTENT, ""))
            token = page.token
            if not token:
                return known

    def sync(self, trials: Sequence[TrackedTrial]) -> int:
        """Bring the store up to the table and return how many runs were written."""
        written = 0
        with self._errors():
            for trial in trials:
                content = trial.content()
                if self._known.get(trial.number, ("", ""))[1] != content:
                    self._write(trial, content)
                    written += 1
        return written

    def _write(self, trial: TrackedTrial, content: str) -> None:
        if len(trial.params) >= _PARAMS_A_RUN:
            raise AssertionError(f"{len(trial.params)} parameters drown the page of runs")
        known = self._known.get(trial.number)
        run_id = known[0] if known else self._open(trial)
        stamp = int(trial.end * 1000)
        metrics = [
            Metric(name, value, stamp, tokens) for name, points in trial.metrics.items() for tokens, value in points
        ]
        for start in range(0, len(metrics), _METRICS_A_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_BATCH])
        for name, text in trial.artifacts.items():
            self._client.log_text(run_id, text, name)
        tags = [RunTag(name, value) for name, value in trial.tags.items()]
        params = [Param(name, value) for name, value in trial.params.items()]
        # The content's hash comes last: without it the run is written again.
        self._client.log_batch(run_id, params=params, tags=[*tags, RunTag(_CONTENT, content)])
        self._known[trial.number] = (run_id, content)

    def _open(self, trial: TrackedTrial) -> str:
        tags = {
            "mlflow.parentRunId": self.parent_id,
            _TRIAL: str(trial.number),
            "kind": "trial",
            "status": trial.status,
        }
        run = self._client.create_run(
            self.experiment_id, start_time=int(trial.start * 1000), run_name=trial.name, tags=tags
        )
        ended = "FINISHED" if trial.status == "finished" else "FAILED"
        self._client.set_terminated(run.info.run_id, ended, end_time=int(trial.end * 1000))
        return str(run.info.run_id)

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

    def finish(self) -> None:
        """Mark the campaign as done."""
        with self._errors():
            self._client.set_terminated(self.parent_id, "FINISHED")


def find_experiment(uri: str, name: str) -> str | None:
    """Return the id of the experiment called ``name``, or None."""
    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    return None if experiment is None else str(experiment.experiment_id)
