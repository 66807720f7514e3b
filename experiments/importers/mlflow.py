"""MLflow: a tracking server, a database or a folder, read through its client.

A run is a row with ``run_id``, ``run_name``, ``experiment``, ``state``, ``wall_seconds``, and ``params.NAME``,
``metrics.NAME`` (the last value) and ``tags.NAME``, as MLflow's own tables call them. ``status`` follows from the
state: what did not finish counts as truncated.
"""

import logging
import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from moe_search.experiments.importers.source import Raw, Source, status_column, table_of
from moe_search.search.redacting import redacted
from moe_search.spaces.errors import InvalidInputError, ResourceError

A_PAGE = 1000
OWN_TAGS = "mlflow."
"""Tags that MLflow sets; of them the name and the parent are kept."""


def read(source: Source) -> Raw:
    """Return the runs that are not deleted.

    Raises:
        InvalidInputError: there is no such store or experiment, or it has no runs.
        ResourceError: the store does not answer or cannot be read.
    """
    if len(source.places) > 1:
        raise InvalidInputError("one store at a time", where="import mlflow", fix=f"one of {', '.join(source.places)}")
    uri = tracking_uri(source.places[0])
    if uri.startswith("file:"):  # no longer developed, but there are such folders, and reading one harms nothing
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        there = {one.name: one.experiment_id for one in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)}
        missing = [name for name in source.experiments if name not in there]
        if missing:
            raise InvalidInputError(
                f"there is no experiment {missing[0]!r}",
                where="--experiment",
                allowed=", ".join(sorted(there)),
                fix=next(iter(get_close_matches(missing[0], there, n=1)), ""),
            )
        wanted = {name: there[name] for name in source.experiments or there}
        rows = [_row(run, name) for name, key in wanted.items() for run in _runs(client, key)]
    except (MlflowException, SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or getattr(error, "message", None) or error
        raise ResourceError(redacted(f"MLflow at {uri} cannot be read: {str(reason).splitlines()[0]}")) from error
    if not rows:
        raise InvalidInputError(
            f"MLflow at {redacted(uri)} has no runs", allowed=f"experiments: {', '.join(sorted(there))}"
        )
    raw = table_of(rows)
    return Raw(raw.frame.with_columns(status_column(raw.frame["state"])), raw.notes)


def tracking_uri(place: str) -> str:
    """Return the URI of a server, a database file, or a folder with ``mlflow.db`` or with MLflow's own files.

    Raises:
        InvalidInputError: there is no such file or folder.
    """
    if "://" in place:
        if place.startswith("sqlite:///") and not Path(place.removeprefix("sqlite:///")).is_file():
            raise InvalidInputError(f"there is no database {place.removeprefix('sqlite:///')}", where="import mlflow")
        return place
    path = Path(place).resolve()
    if path.is_dir():
        database = path / "mlflow.db"
        return f"sqlite:///{database}" if database.is_file() else path.as_uri()
    if not path.is_file():
        raise InvalidInputError(
            f"there is no file or folder {place}",
            where="import mlflow",
            allowed="a tracking URI (http://..., sqlite:///...), a database, or a folder",
        )
    return f"sqlite:///{path}"


def _runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment], run_view_type=ViewType.ACTIVE_ONLY, max_results=A_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _row(run: Run, experiment: str) -> dict[str, object]:
    info, data = run.info, run.data
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time and info.start_time else None
    tags = {name: value for name, value in data.tags.items() if not name.startswith(OWN_TAGS)}
    return {
        "run_id": info.run_id,
        "run_name": data.tags.get("mlflow.runName"),
        "parent_run_id": data.tags.get("mlflow.parentRunId"),
        "experiment": experiment,
        "state": info.status,
        "wall_seconds": seconds,
        **{f"params.{name}": value for name, value in data.params.items()},
        **{f"metrics.{name}": value for name, value in data.metrics.items()},
        **{f"tags.{name}": value for name, value in tags.items()},
    }
