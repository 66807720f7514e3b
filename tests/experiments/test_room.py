"""A campaign looks at the disk before it starts and while it runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from moe_search.experiments import campaign
from moe_search.experiments.presets.catalogue import preset_text
from moe_search.experiments.room import LEAST_TO_GO_ON, LEAST_TO_START, check_room, free_bytes
from moe_search.experiments.spec.loading import load_spec
from moe_search.spaces.errors import ResourceError


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def has(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, free=free))

    return has


def test_room_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_too_little_is_one_sentence(tmp_path: Path, disk: Callable[[int], None]) -> None:
    disk(LEAST_TO_START)
    check_room(tmp_path, LEAST_TO_START, "does not start")
    disk(LEAST_TO_START - 1_000_000)
    with pytest.raises(
        ResourceError, match="has 499 MB of free space and needs 500 MB, so the campaign does not start"
    ):
        check_room(tmp_path, LEAST_TO_START, "does not start")


def test_a_campaign_without_room_writes_nothing(tmp_path: Path, disk: Callable[[int], None]) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(preset_text("quickstart"))
    disk(LEAST_TO_START // 2)
    spec = load_spec(path, [f"folder={tmp_path / 'results'}"])
    say: Any = print
    with pytest.raises(ResourceError, match="does not start"):
        campaign.run_campaign(spec, command="a test", console=Console(), log=say, warn=say)
    assert [found.name for found in tmp_path.iterdir()] == ["campaign.yaml"]


def test_workers_are_stopped_in_order_when_the_disk_fills_up(
    tmp_path: Path, disk: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Launcher:
        def start(self, count: int) -> None:
            done.append(f"start {count}")

        def tend(self) -> int:
            done.append("tend")
            disk(LEAST_TO_GO_ON - 1)
            return 2

        def stop(self) -> None:
            done.append("stop")

    anything: Any = SimpleNamespace(rows=list, update=lambda _: None)
    monkeypatch.setattr(campaign, "overview", lambda *_: None)
    disk(LEAST_TO_START)

    class Progress:
        update = staticmethod(lambda _: None)
        __enter__ = __exit__ = lambda *_: None

    progress: Any = Progress()
    with pytest.raises(ResourceError, match="pauses, with its proxies saved"):
        campaign._search(2, anything, Launcher(), anything, folder=tmp_path, deadline=None, progress=progress)
    assert done == ["start 2", "tend", "stop"]
