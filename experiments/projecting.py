"""The trial table projected onto what people look at: ``runs.parquet`` and MLflow. Doing it again changes nothing."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import polars as pl

from moe_search.experiments.mirroring import PARTING_SECONDS, Mirror
from moe_search.experiments.overview import overview
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.tracked import Picture, TrackedTrial
from moe_search.experiments.wording import design_words, scale_words, schedule_name
from moe_search.experiments.workspace import Workspace
from moe_search.scaling.runs import runs_to_frame, write_runs
from moe_search.search.ledger import Ledger
from moe_search.search.redacting import redacted
from moe_search.search.table import History
from moe_search.search.trial import Row
from moe_search.spaces.resolve import resolve
from moe_search.spaces.run import Run

if TYPE_CHECKING:
    from moe_search.experiments.tracking import Tracker

MOST_DOMAINS_AS_PARAMETERS = 12
"""A run of MLflow stays readable below 40 parameters; larger mixtures are in its artifacts alone."""
MOST_POINTS_OF_A_CURVE = 100
"""A curve on a page has no more pixels to show, and writing points is most of what a run costs an MLflow server."""


class Projection:
    """Keeps the runs table and MLflow in step with the ledger; a context manager.

    The runs table is written at once. MLflow follows on a thread of its own (:mod:`moe_search.experiments.mirroring`),
    and at the end of the ``with`` block it is given a bounded time to catch up: little if the block was broken off.

    Args:
        spec: the campaign.
        workspace: its folder.
        ledger: the truth.
        log: told when MLflow is back.
        warn: told when MLflow cannot be written; the search goes on without it.
    """

    def __init__(
        self,
        spec: Spec,
        workspace: Workspace,
        ledger: Ledger,
        *,
        log: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._spec, self._workspace, self._ledger = spec, workspace, ledger
        self._mirror: Mirror | None = None
        if spec.tracking.enabled:
            name, key = redacted(tracking_uri(spec, workspace)), ledger.identity()
            self._mirror = Mirror(name, lambda: self._open(key), turn=ledger.projecting, warn=warn, log=log)
        self._tracked: dict[int, TrackedTrial] = {}
        self._metrics: dict[str, float] = {}
        self._projected = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mirror is not None:
            self._mirror.close(at_most=math.inf if kind is None else PARTING_SECONDS)

    def update(self, rows: Sequence[Row]) -> None:
        """Bring everything up to ``rows``; cheap when no trial has ended since."""
        ended = [row for row in rows if not row.is_open]
        if len(ended) == self._projected:
            return
        frame = runs_frame(rows)
        if frame.height:
            write_runs(frame, self._workspace.runs)
        if self._mirror is not None:
            self._track(ended)
            now = overview(self._ledger, rows).status
            metrics = {"spent_flops": now.budget.settled, "proxies": float(len(ended))}
            if now.best is not None:
                metrics["best_bpb"] = now.best.bpb
            self._metrics = metrics
            self._mirror.show(Picture(self._trials(), tags={"state": "searching"}, metrics=metrics))
        self._projected = len(ended)

    def finish(self, files: Sequence[Path], tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Attach the conclusions to the campaign's run and mark it as done."""
        if self._mirror is not None:
            tags, metrics = {"state": "done", **tags}, {**self._metrics, **metrics}
            self._mirror.show(Picture(self._trials(), tags=tags, metrics=metrics, files=tuple(files), is_done=True))

    def _track(self, ended: Sequence[Row]) -> None:
        """Work out what is shown of the trials that have ended since; those before do not change any more."""
        new = [row for row in ended if row.trial.number not in self._tracked]
        if new:
            history = self._ledger.history(row.trial.number for row in new)
            self._tracked |= {row.trial.number: tracked(row, history[row.trial.number], self._spec) for row in new}

    def _trials(self) -> tuple[TrackedTrial, ...]:
        return tuple(self._tracked[number] for number in sorted(self._tracked))

    def _open(self, key: str) -> "Tracker":
        from moe_search.experiments.tracking import Tracker  # noqa: PLC0415 - MLflow takes seconds to import

        spec, folder = self._spec, self._workspace.folder.resolve()
        tracker = Tracker(
            tracking_uri(spec, self._workspace),
            spec.name,
            key=key,
            artifacts=self._workspace.mlflow_artifacts,
            tags={
                "seed": str(spec.seed),
                "folder": str(folder),
                "budget_train_flops": f"{spec.budget.train_flops:.3g}",
            },
        )
        text = self._workspace.spec_file.read_text(encoding="utf-8")
        tracker.attach_texts({self._workspace.spec_file.name: redacted(text)})
        return tracker


def tracking_uri(spec: Spec, workspace: Workspace) -> str:
    """Return where MLflow keeps a campaign, secrets and all.

    Raises:
        InvalidInputError: a variable that the file names is not set.
    """
    if spec.tracking.uri:
        return looked_up(spec.tracking.uri, where="tracking.uri")
    return f"sqlite:///{workspace.mlflow_database.resolve()}"


def runs_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Return the runs of all ended trials as a runs table, by trial and horizon."""
    return runs_to_frame([run for row in rows for run in row.runs])


def tracked(row: Row, history: History, spec: Spec) -> TrackedTrial:
    """Return what MLflow shows of one ended trial.

    Args:
        row: the trial and its runs.
        history: its times and its training curve.
        spec: the campaign.
    """
    trial, last = row.trial, row.runs[-1] if row.runs else None
    resolved = resolve(trial.design, trial.scale, spec.shape)
    realised = resolved.realised
    start, end = _times(row, history)
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
        metrics=_metrics(row.runs, history.curve),
        artifacts={
            "architecture.json": resolved.architecture.model_dump_json(indent=2),
            "design.json": trial.design.model_dump_json(indent=2),
            "runs.json": json.dumps([run.model_dump(mode="json") for run in row.runs], indent=2),
        },
    )


def _times(row: Row, history: History) -> tuple[float, float]:
    """Return when a trial began and ended, in seconds since the epoch.

    One whose result nobody has told yet (its worker was killed in between) has no end in the ledger; its runs know.
    """
    took = sum(run.wall_seconds or 0.0 for run in row.runs)
    start = history.started or 0.0
    end = start + took if history.ended is None else history.ended
    return start or end, end


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
    points: dict[str, list[tuple[int, float]]] = {"train_loss": _thinned(sorted(curve.items()))}
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


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most so many points, evenly spaced, the first and the last among them."""
    if len(points) <= MOST_POINTS_OF_A_CURVE:
        return points
    step = (len(points) - 1) / (MOST_POINTS_OF_A_CURVE - 1)
    return [points[round(index * step)] for index in range(MOST_POINTS_OF_A_CURVE)]
