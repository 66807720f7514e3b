"""What a person sees of a campaign at work."""

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from moe_search.experiments.overview import Overview
from moe_search.experiments.presets.catalogue import preset_text
from moe_search.experiments.spec.loading import load_spec
from moe_search.experiments.standing import AT_ONCE, renderables
from moe_search.search.budget import Budget
from moe_search.search.presence import Presence
from moe_search.search.status import Running, Status
from moe_search.spaces.design import Scale

HOST = "gpu-node-0123.example"


def running(trial: int, *, is_held: bool = True) -> Running:
    return Running(
        trial=trial,
        scale=Scale(n_active=3e6, tokens=50_000_000),
        owner=f"{HOST}:{4000 + trial}",
        attempt=1,
        renewed=time.time() - 12.2,
        is_held=is_held,
        tokens=25_000_000,
        loss=4.5,
    )


def shown(folder: Path, status: Status) -> str:
    path = folder / "campaign.yaml"
    path.write_text(preset_text("quickstart"))
    written = io.StringIO()
    console = Console(file=written, width=80)
    trials: Any = {one.trial: SimpleNamespace(predicted_cost=1e12) for one in status.running}
    for part in renderables(load_spec(path), [], Overview(status=status, trials=trials)):
        console.print(part)
    return written.getvalue()


def test_workers_leases_budget_and_failures_fit_into_80_columns(tmp_path: Path) -> None:
    status = Status(
        trials={"finished": 40, "running": 2, "waiting": 3},
        budget=Budget(total=1e16, settled=2e15, reserved=1e15),
        best=None,
        running=(running(7), running(8, is_held=False)),
        workers=(
            Presence(owner=f"{HOST}:4007", state="working", trial=7, seen=time.time()),
            Presence(owner=f"{HOST}:4008", state="lost", trial=8, seen=time.time() - 400),
            Presence(owner=f"{HOST}:[red]4009", state="idle", seen=time.time()),
        ),
        failures={"preempted": 2, "lost": 1, "error": 0, "oom": 0, "diverged": 5},
    )
    text = shown(tmp_path, status)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "1 working, 1 idle, 0 ended, 1 lost" in words
    assert f"{HOST}:4008 was lost at trial 8, last seen 6 min 40 s ago" in words
    assert "2 preempted, 1 lost, 5 diverged" in words
    assert "1.00e+15 reserved for open trials, 7.00e+15 left to propose" in words
    assert "none: to be resumed" in words
    assert "12 s ago" in words
    assert f"{HOST}:4007" in text


def test_many_running_trials_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    many = tuple(running(trial) for trial in range(500))
    status = Status(
        trials={"running": 500}, budget=Budget(total=1e16, settled=0.0, reserved=1e15), best=None, running=many
    )
    text = shown(tmp_path, status)
    assert f"Running ({AT_ONCE} of 500)" in text
    assert len(text.splitlines()) < 4 * AT_ONCE
