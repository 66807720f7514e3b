"""Whatever ends a campaign early, the same command continues it, and the trial table comes out the same."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SMALL, LARGER = 1.4e10, 3e10
KILLS = 3
GIVE_UP_SECONDS = 300
"""After which something hangs. Nothing here depends on being faster."""


def wait_until_training(campaign: Any, process: Any) -> None:
    """Return once a trial has left a checkpoint."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not list((campaign.folder / "results" / "checkpoints").glob("*/*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no trial has begun"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Say whether a process is still at work; one that nobody has asked for its exit code is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_exits_130_with_nothing_running_and_the_same_command_continues(
    new_campaign: Any, descendants: Any
) -> None:
    campaign = new_campaign(budget=SMALL)
    process = campaign.start("run", "campaign.yaml")
    wait_until_training(campaign, process)
    below = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=GIVE_UP_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "the same command continues" in said
    assert not [pid for pid in below if lives(pid)], "the workers have ended"
    started = campaign.json("status", "campaign.yaml")
    assert not any(running["is_held"] for running in started["running"])
    done = campaign("run", "campaign.yaml")
    assert done.returncode == 0, done.stderr
    ended = campaign.json("status", "campaign.yaml")["trials"]["finished"]
    assert ended > started["trials"].get("finished", 0)


def test_the_wall_clock_limit_exits_3_and_the_same_command_continues(new_campaign: Any) -> None:
    campaign = new_campaign(budget=SMALL)
    stopped = campaign("run", "campaign.yaml", "--set", "budget.max_minutes=0.02")
    assert stopped.returncode == 3, stopped.stderr
    assert "the same command continues" in stopped.stderr
    assert campaign("status", "campaign.yaml").returncode == 0


def test_a_second_run_on_the_same_folder_is_refused_and_more_workers_come_and_go(
    new_campaign: Any, watched: Any, kill_all: Any
) -> None:
    campaign = new_campaign(budget=SMALL)
    process = campaign.start("run", "campaign.yaml")
    try:
        wait_until_training(campaign, process)
        second = campaign("run", "campaign.yaml")
        assert second.returncode == 2
        assert f"process {process.pid}" in second.stderr
        for seconds in (0.05, 0.2, 0.5, 1.0, 3.0):
            helper = watched("worker", "results", folder=campaign.folder)
            assert helper.stdout.read(1) == "!"
            time.sleep(seconds)  # what this hits differs between machines; what comes out must not
            helper.send_signal(signal.SIGINT)
            _, said = helper.communicate(timeout=GIVE_UP_SECONDS)
            assert helper.returncode in {0, 130}, said
            assert "Traceback" not in said
    finally:
        kill_all(process)


def test_workers_do_not_outlive_a_killed_parent(new_campaign: Any, descendants: Any) -> None:
    campaign = new_campaign(budget=SMALL)
    process = campaign.start("run", "campaign.yaml")
    wait_until_training(campaign, process)
    below = descendants(process.pid)
    assert len(below) >= 2, "two workers, and whatever they have just called"
    process.kill()
    process.communicate()
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while any(lives(pid) for pid in below):
        assert time.monotonic() < deadline, "a worker goes on without its parent"
        time.sleep(0.1)


def test_a_killed_worker_is_replaced(new_campaign: Any, descendants: Any) -> None:
    campaign = new_campaign(budget=SMALL)
    process = campaign.start("run", "campaign.yaml")
    wait_until_training(campaign, process)
    for pid in descendants(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=GIVE_UP_SECONDS)
    assert process.returncode == 0, said


def entries(campaign: Any) -> int:
    """Return how many lines the trial table's journal has."""
    journal = campaign.folder / "results" / "journal.log"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_random_kills_do_not_change_the_trial_table(new_campaign: Any, kill_all: Any) -> None:
    """Each kill comes a few entries of the journal after the one before, so that no machine outruns them."""
    unbroken, broken = new_campaign(budget=LARGER), new_campaign(budget=LARGER)
    assert unbroken("run", "campaign.yaml").returncode == 0
    draw, kills = random.Random(0), 0
    while kills < KILLS:
        process = broken.start("run", "campaign.yaml")
        wanted = entries(broken) + draw.randint(1, 10)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while entries(broken) < wanted and process.poll() is None:
            assert time.monotonic() < deadline, "the campaign stands still"
            time.sleep(0.01)
        if process.poll() is not None:  # workers that a kill left alone have gone on for a while
            break
        kills += 1
        if kills == 1 or draw.random() < 0.5:  # nothing goes on after the first, so that there is a second
            kill_all(process)
        else:
            process.kill()
            process.communicate()
    assert kills >= 2
    done = broken("run", "campaign.yaml")
    assert done.returncode == 0, done.stderr
    assert broken.table() == unbroken.table()
