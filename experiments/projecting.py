"""The trial table projected onto what people look at: ``runs.parquet`` and MLflow. Doing it again changes nothing."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from moe_search.experiments.overview import overview
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.tracked import TrackedTrial
from moe_search.experiments.wording import design_words, scale_words, schedule_name
from moe_search.experiments.workspace import Workspace
from moe_search.scaling.runs import runs_to_frame, write_runs
from moe_search.search.ledger import Ledger
from moe_search.search.trial import Row
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.resolve import resolve
from moe_search.spaces.run import Run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from moe_search.experiments.tracking import Tracker

MOST_DOMAINS_AS_PARAMETERS = 12
"""A run of MLflow stays readable below 40 parameters; larger mixtures are in its artifacts alone."""


class Projection:
    """Keeps the runs table and MLflow in step with the ledger.

    Args:
        spec: the campaign.
        workspace: its folder.
        ledger: the truth.
        warn: told when MLflow cannot be written; the search goes on without it.
    """

    def __init__(self, spec: Spec, workspace: Workspace, ledger: Ledger, *, warn: Callable[[str], None]) -> None:
        self._spec, self._workspace, self._ledger, self._warn = spec, workspace, ledger, warn
        self._tracker: Tracker | None = None
        self._tracks = spec.tracking.enabled
        self._projected = -1

    @property
    def uri(self) -> str:
        """Where MLflow keeps the campaign."""
        return tracking_uri(self._spec, self._workspace)

    def update(self, rows: Sequence[Row]) -> None:
        """Bring everything up to ``rows``; cheap when no trial has ended since."""
        ended = [row for row in rows if not row.is_open]
        if len(ended) == self._projected:
            return
        frame = runs_frame(rows)
        if frame.height:
            write_runs(frame, self._workspace.runs)
        self._track(rows, ended)
        self._projected = len(ended)

    def _track(self, rows: Sequence[Row], ended: Sequence[Row]) -> None:
        if not self._tracks:
            return
        try:
            tracker = self._open_tracker()
            frozen = {trial.number: trial for trial in self._ledger.study.get_trials(deepcopy=False)}
            tracker.sync([tracked(row, frozen[row.trial.number], self._spec) for row in ended])
            now = overview(self._ledger, rows).status
            metrics = {"spent_flops": now.budget.settled, "proxies": float(len(ended))}
            if now.best is not None:
                metrics["best_bpb"] = now.best.bpb
            tracker.summarise(tags={"state": "searching"}, metrics=metrics, step=len(ended))
        except ResourceError as error:
            self._give_up(error)

    def finish(self, files: Sequence[Path], tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Attach the conclusions to the campaign's run and mark it as done."""
        if not self._tracks:
            return
        try:
            tracker = self._open_tracker()
            tracker.attach([path for path in files if path.exists()])
            tracker.summarise(tags={"state": "done", **tags}, metrics=metrics, step=max(self._projected, 0))
            tracker.finish()
        except ResourceError as error:
            self._give_up(error)

    def _open_tracker(self) -> "Tracker":
        if self._tracker is None:
            from moe_search.experiments.tracking import Tracker  # noqa: PLC0415 - MLflow takes seconds to import

            self._tracker = Tracker(
                self.uri,
                self._spec.name,
                key=f"{self._spec.name}@{self._workspace.folder.resolve()}",
                artifacts=self._workspace.mlflow_artifacts,
                tags={
                    "seed": str(self._spec.seed),
                    "folder": str(self._workspace.folder.resolve()),
                    "budget_train_flops": f"{self._spec.budget.train_flops:.3g}",
                },
            )
            self._tracker.attach([self._workspace.spec_file])
        return self._tracker

    def _give_up(self, error: ResourceError) -> None:
        self._tracks = False
        self._warn(f"{error}; the search goes on, and the next `moe-search run` writes what is missing")


def tracking_uri(spec: Spec, workspace: Workspace) -> str:
    """Return where MLflow keeps a campaign."""
    return spec.tracking.uri or f"sqlite:///{workspace.mlflow_database.resolve()}"


def runs_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Return the runs of all ended trials as a runs table, by trial and horizon."""
    return runs_to_frame([run for row in rows for run in row.runs])


def tracked(row: Row, frozen: "FrozenTrial", spec: Spec) -> TrackedTrial:
    """Return what MLflow shows of one ended trial.

    Args:
        row: the trial and its runs.
        frozen: the same trial in Optuna, which knows its times and its training curve.
        spec: the campaign.
    """
    trial, last = row.trial, row.runs[-1] if row.runs else None
    resolved = resolve(trial.design, trial.scale, spec.shape)
    realised = resolved.realised
    end = frozen.datetime_complete.timestamp() if frozen.datetime_complete else 0.0
    start = frozen.datetime_start.timestamp() if frozen.datetime_start else end
    status = last.status if last is not None else "failed"
    schedule = schedule_name(trial.design.schedule)
    return TrackedTrial(
        number=trial.number,
        name=f"{trial.number:03d} {scale_words(trial.scale)} | {design_words(trial.design)}",
        status=status,
        start=start,
        end=end,
        tags={
            "status": status,
            "n_active": str(realised.n_active_non_embedding),
            "tokens": str(trial.scale.tokens),
            "granularity": f"{realised.granularity:.3g}",
            "activation_ratio": f"{realised.activation_ratio:.3g}",
            "experts": f"{realised.n_experts:g}",
            "router": trial.design.routing.router if trial.design.ffn == "moe" else "dense",
            "schedule": schedule,
            "reason": trial.reason,
        },
        params=_parameters(row, schedule),
        metrics=_metrics(row.runs, frozen.intermediate_values),
        artifacts={
            "architecture.json": resolved.architecture.model_dump_json(indent=2),
            "design.json": trial.design.model_dump_json(indent=2),
            "runs.json": json.dumps([run.model_dump(mode="json") for run in row.runs], indent=2),
        },
    )


def _parameters(row: Row, schedule: str) -> dict[str, str]:
    trial = row.trial
    values: dict[str, object] = {"seed": trial.seed, "schedule": schedule, "tokens": trial.scale.tokens}
    if row.runs:
        run = row.runs[-1]
        names = (
            "d_model",
            "n_layers",
            "n_heads",
            "n_experts",
            "top_k",
            "d_expert",
            "n_shared_experts",
            "router",
            "balancing",
            "n_active",
            "n_total",
            "n_active_non_embedding",
            "n_total_non_embedding",
            "granularity",
            "activation_ratio",
            "batch_tokens",
            "learning_rate",
            "device",
        )
        values |= {name: getattr(run, name) for name in names}
    mixture = dict(trial.design.mixture.items())
    if len(mixture) <= MOST_DOMAINS_AS_PARAMETERS:
        values |= {f"weight/{domain}": round(weight, 4) for domain, weight in mixture.items()}
    return {name: f"{value:.5g}" if isinstance(value, float) else str(value) for name, value in values.items()}


def _metrics(runs: Sequence[Run], curve: Mapping[int, float]) -> dict[str, list[tuple[int, float]]]:
    """Return the training curve and, at each horizon, what was measured on held-out text; steps are tokens."""
    points: dict[str, list[tuple[int, float]]] = {"train_loss": sorted(curve.items())}
    for run in runs:
        measured = {
            "bpb": run.bpb,
            "loss": run.loss,
            "load_imbalance": run.load_imbalance,
            "router_entropy": run.router_entropy,
            "tokens_per_second": run.tokens_per_second,
            **{f"bpb/{domain}": value for domain, value in run.domain_bpb.items()},
        }
        for name, value in measured.items():
            if value is not None:
                points.setdefault(name, []).append((run.tokens, value))
    return points
