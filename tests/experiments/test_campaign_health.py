"""``moe-search doctor SPEC``: storage, clock, MLflow server, folder."""

import json
import socket
from pathlib import Path

import pytest

from moe_search.experiments import campaign_health
from moe_search.experiments.doctor import Diagnosis
from moe_search.experiments.presets.catalogue import preset_text
from moe_search.experiments.room import LEAST_TO_START
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import load_spec
from moe_search.search.probing import Probe


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    path = tmp_path / "campaign.yaml"
    path.write_text(preset_text("quickstart"))
    return load_spec(path, [f"folder={tmp_path / 'results'}"])


def examined(spec: Spec) -> Diagnosis:
    found = Diagnosis()
    campaign_health.examine(spec, found)
    json.dumps(found.as_json(), allow_nan=False)
    assert all(len(sentence.splitlines()) == 1 for sentence in found.problems)
    assert list(campaign_health.table(found))
    return found


def test_a_campaign_that_can_start_has_no_problems_and_nothing_is_written(spec: Spec, tmp_path: Path) -> None:
    found = examined(spec)
    assert found.problems == []
    assert found.campaign is not None
    assert found.campaign["storage"]["version"] == "journal file"
    assert [path.name for path in tmp_path.iterdir()] == ["campaign.yaml"]


def test_what_does_not_answer_is_named_without_secrets(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("MOE_SEARCH_DB_PASSWORD", "hunter2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refused
        port = taken.getsockname()[1]
        away = spec.replace(
            storage=f"postgresql+psycopg://me:${{MOE_SEARCH_DB_PASSWORD}}@127.0.0.1:{port}/db",
            tracking=spec.tracking.replace(uri=f"http://127.0.0.1:{port}"),
        )
        found = examined(away)
    storage, tracking = found.problems
    assert "does not answer" in storage
    assert f"the MLflow server http://127.0.0.1:{port} does not answer" in tracking
    assert "hunter2" not in json.dumps(found.as_json())


def test_clock_latency_and_disk_are_judged(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Probe(storage="s", version="v", latency_seconds=2.0, clock_seconds=-61.0)
    monkeypatch.setattr(campaign_health, "probe", lambda _: slow)
    monkeypatch.setattr(campaign_health, "free_bytes", lambda _: LEAST_TO_START - 1)
    found = examined(spec)
    disk, clock = found.problems
    assert "500 MB" in disk
    assert "-61.0 s" in clock
    assert any("2.00 s to answer" in sentence for sentence in found.notes)
