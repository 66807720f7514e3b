from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from moe_search.experiments.tracked import RefusedError, TrackedTrial
from moe_search.experiments.tracking import Tracker
from moe_search.spaces.errors import ResourceError

Open = Callable[[], Tracker]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the module: creating its tables takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def opened(store: Path, request: pytest.FixtureRequest) -> Open:
    name = request.node.name

    def open_tracker() -> Tracker:
        return Tracker(
            f"sqlite:///{store}/mlflow.db", name, key=f"{name}@here", artifacts=store / "artifacts", tags={"seed": "0"}
        )

    return open_tracker


def trial(number: int, **changes: object) -> TrackedTrial:
    base = TrackedTrial(
        number=number,
        name=f"trial {number}",
        status="finished",
        start=1_000.0,
        end=1_060.0,
        tags={"granularity": "2", "tokens": "200000"},
        params={"top_k": "2", "d_expert": "64"},
        metrics={
            "train_loss": [(tokens, 8.0 - tokens / 1e4) for tokens in range(0, 20_000, 1000)],
            "bpb": [(200, 3.5)],
        },
        artifacts={"architecture.json": '{"d_model": 64}'},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_runs_are_nested_closed_and_complete(opened: Open) -> None:
    tracker = opened()
    assert tracker.sync([trial(0), trial(1, status="diverged", metrics={})]) == 2
    client, experiment = tracker._client, tracker.experiment_id
    runs = {run.data.tags.get("moe_search.trial", "parent"): run for run in client.search_runs([experiment])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "parent": "SCHEDULED",
        "0": "FINISHED",
        "1": "FAILED",
    }
    child = runs["0"]
    assert child.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert child.data.params == {"top_k": "2", "d_expert": "64"}
    assert child.data.metrics["bpb"] == 3.5
    history = client.get_metric_history(child.info.run_id, "train_loss")
    assert [point.step for point in sorted(history, key=lambda point: point.step)] == list(range(0, 20_000, 1000))
    assert [artifact.path for artifact in client.list_artifacts(child.info.run_id)] == ["architecture.json"]
    assert (child.info.end_time - child.info.start_time) == 60_000


def test_writing_again_changes_nothing(opened: Open) -> None:
    opened().sync([trial(0), trial(1)])
    again = opened()
    assert again.sync([trial(0), trial(1)]) == 0
    assert again.sync([trial(0), trial(1), trial(2)]) == 1
    assert len(again._client.search_runs([again.experiment_id])) == 4


def test_a_run_that_a_kill_left_open_is_closed_and_completed(opened: Open) -> None:
    tracker = opened()
    half = tracker._client.create_run(
        tracker.experiment_id, tags={"mlflow.parentRunId": tracker.parent_id, "moe_search.trial": "0"}
    )
    resumed = opened()
    assert resumed._client.get_run(half.info.run_id).info.status == "RUNNING", "a look alone changes nothing"
    assert resumed.sync([trial(0)]) == 1
    assert len(resumed._client.search_runs([resumed.experiment_id])) == 2
    whole = resumed._client.get_run(half.info.run_id)
    assert whole.info.status == "FINISHED"
    assert whole.data.params == {"top_k": "2", "d_expert": "64"}


def children(tracker: Tracker) -> list[Run]:
    return list(tracker._client.search_runs([tracker.experiment_id], "tags.kind = 'trial'"))


def test_a_run_whose_creation_was_believed_lost_is_found_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = opened()
    create = tracker._client.create_run

    def unanswered(*arguments: Any, **options: Any) -> Run:
        create(*arguments, **options)
        monkeypatch.setattr(tracker._client, "create_run", create)
        raise MlflowException("API request failed with timeout exception")

    monkeypatch.setattr(tracker._client, "create_run", unanswered)
    with pytest.raises(ResourceError, match="timeout"):
        tracker.sync([trial(0), trial(1)])
    assert tracker.sync([trial(0), trial(1)]) == 2
    assert [run.info.status for run in children(tracker)] == ["FINISHED", "FINISHED"]


def test_of_two_runs_for_one_trial_the_whole_one_is_kept(opened: Open) -> None:
    tracker = opened()
    tracker.sync([trial(0)])
    whole = children(tracker)[0].info.run_id
    for _ in range(3):  # requests that were carried out long after they had been given up
        labels = {"mlflow.parentRunId": tracker.parent_id, "moe_search.trial": "0", "kind": "trial"}
        tracker._client.create_run(tracker.experiment_id, tags=labels)
    again = opened()
    assert again.sync([trial(0)]) == 0
    assert [run.info.run_id for run in children(again)] == [whole]


def test_two_processes_in_turn_write_nothing_twice(opened: Open) -> None:
    first, second = opened(), opened()
    assert first.parent_id == second.parent_id
    assert [first.sync([trial(0)]), second.sync([trial(0), trial(1)]), first.sync([trial(0), trial(1), trial(2)])] == [
        1,
        1,
        1,
    ]
    assert len(children(first)) == 3


def test_a_trial_that_another_version_showed_otherwise_is_shown_anew(opened: Open) -> None:
    opened().sync([trial(0, params={"top_k": "2", "experts": "8"})])
    tracker = opened()
    assert tracker.sync([trial(0)]) == 1
    assert [run.data.params for run in children(tracker)] == [{"top_k": "2", "d_expert": "64"}]


@pytest.mark.parametrize("points", [0, 972, 973, 2500])
def test_batches_are_as_large_as_they_may_be_and_the_hash_comes_last(
    points: int, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, batches = opened(), list[tuple[int, set[str]]]()
    write = tracker._client.log_batch

    def log_batch(run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        batches.append((len(metrics) + len(params) + len(tags), {tag.key for tag in tags}))
        write(run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(tracker._client, "log_batch", log_batch)
    params = {f"knob_{number}": "1" for number in range(25)}
    tracker.sync([trial(0, params=params, metrics={"train_loss": [(step, 1.0) for step in range(points)]})])
    entries = points + 25 + 3
    assert sum(size for size, _ in batches) == entries
    assert len(batches) == -(-entries // 1000)
    assert all(size <= 1000 for size, _ in batches)
    assert ["moe_search.content" in keys for _, keys in batches] == [False] * (len(batches) - 1) + [True]


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as raised:
        Tracker("http://me:s3cret@127.0.0.1:9", "name", key="k", artifacts=tmp_path, tags={})
    assert "http://***@127.0.0.1:9" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert not isinstance(raised.value, RefusedError), "it may come back"


def test_a_finished_campaign_is_finished_and_can_be_projected_again(opened: Open, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<html></html>")
    tracker = opened()
    tracker.summarise(tags={"state": "done"}, metrics={"best_bpb": 3.1}, step=4)
    tracker.attach([report])
    tracker.finish()
    parent = tracker._client.get_run(tracker.parent_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"best_bpb": 3.1}
    assert [artifact.path for artifact in tracker._client.list_artifacts(tracker.parent_id)] == ["report.html"]
    assert opened().parent_id == tracker.parent_id


def test_too_many_parameters_are_our_own_mistake(opened: Open) -> None:
    with pytest.raises(AssertionError, match="drown"):
        opened().sync([trial(0, params={f"knob_{i}": "1" for i in range(40)})])


def test_a_store_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, " * 100)
    with pytest.raises(RefusedError, match="MLflow at sqlite"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", "name", key="k", artifacts=tmp_path, tags={})
