import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.search import outbox as outbox_module
from moe_search.search.ledger import Ledger
from moe_search.search.outbox import Outbox
from moe_search.search.problem import Problem
from moe_search.search.storage import StorageAwayError
from moe_search.search.suggest import suggest
from moe_search.search.trial import Claim
from moe_search.search.worker import work
from moe_search.search.worlds.simulated import SimulatedWorld
from moe_search.spaces.errors import ResourceError
from moe_search.spaces.run import Run


@pytest.fixture
def ledger(tmp_path: Path, problem: Problem) -> Ledger:
    ledger = Ledger(tmp_path / "journal.log", problem=problem)
    for proposal in suggest(problem, (), (), n=2):
        ledger.append(proposal, number=len(ledger.rows()))
    return ledger


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def claimed(ledger: Ledger) -> Claim:
    claim = ledger.claim("somebody")
    assert claim is not None
    return claim


def runs_of(world: SimulatedWorld, claim: Claim) -> list[Run]:
    return world.evaluate(claim.trial, lambda loss, tokens: None)


def test_an_empty_outbox_has_nothing_to_deliver(outbox: Outbox, ledger: Ledger) -> None:
    assert outbox.deliver(ledger) == 0
    assert not outbox.folder.exists()


def test_another_process_delivers_what_was_put(
    outbox: Outbox, ledger: Ledger, world: SimulatedWorld, tmp_path: Path
) -> None:
    claim = claimed(ledger)
    runs = runs_of(world, claim)
    outbox.put(claim, runs)
    assert [path.name for path in outbox.folder.iterdir()] == [f"{claim.trial.run_key}-1.json"]
    other = Ledger(tmp_path / "journal.log")
    assert Outbox(outbox.folder).deliver(other) == 1
    assert list(ledger.rows()[0].runs) == runs
    assert list(outbox.folder.iterdir()) == []
    assert outbox.deliver(ledger) == 0


def test_a_late_result_is_refused_and_forgotten(outbox: Outbox, ledger: Ledger, world: SimulatedWorld) -> None:
    slow = claimed(ledger)
    outbox.put(slow, runs_of(world, slow))
    ledger.release(slow)
    fast = claimed(ledger)
    first = runs_of(world.replace(seed=9), fast)
    assert ledger.commit(fast, first)
    assert outbox.deliver(ledger) == 0
    assert list(ledger.rows()[0].runs) == first
    assert list(outbox.folder.iterdir()) == []


def test_a_result_that_was_stored_although_nobody_heard_of_it_is_stored_once(
    outbox: Outbox, ledger: Ledger, world: SimulatedWorld
) -> None:
    claim = claimed(ledger)
    runs = runs_of(world, claim)
    outbox.put(claim, runs)
    assert ledger.commit(claim, runs)
    assert outbox.deliver(ledger) == 1
    assert list(ledger.rows()[0].runs) == runs


def test_a_result_of_another_campaign_is_set_aside(
    outbox: Outbox, ledger: Ledger, world: SimulatedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    claim = claimed(ledger)
    foreign = claim.replace(trial=claim.trial.replace(run_key="another"))
    outbox.put(foreign, runs_of(world, claim))
    assert outbox.deliver(ledger) == 0
    assert ledger.rows()[0].is_open
    assert [path.name for path in outbox.folder.iterdir()] == ["another-1.json.corrupt"]
    assert "belongs to another campaign" in caplog.text


@given(data=st.data())
def test_a_damaged_file_gives_one_warning_and_is_set_aside(
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
    problem: Problem,
    world: SimulatedWorld,
) -> None:
    """Whichever byte is changed or from wherever on the file is missing."""
    folder = tmp_path_factory.mktemp("damaged")
    trial = problem.trial(0, suggest(problem, (), (), n=1)[0])
    claim = Claim(trial=trial, owner="somebody", token=1)
    outbox = Outbox(folder)
    outbox.put(claim, runs_of(world, claim))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path.write_bytes(damaged)

    class Untouched:
        def has(self, claim: Claim) -> bool:
            raise AssertionError("a damaged result was believed")

        def commit(self, claim: Claim, runs: object) -> bool:
            raise AssertionError

    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_module.LOGGER, "warning", lambda text, *args: warnings.append(text % args))
        assert outbox.deliver(Untouched()) == 0
        assert outbox.deliver(Untouched()) == 0
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert [found.name for found in folder.iterdir()] == [path.name + ".corrupt"]


def test_a_full_disk_leaves_no_torn_file(
    outbox: Outbox, ledger: Ledger, world: SimulatedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(ledger)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    runs = runs_of(world, claim)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="No space left on device"):
            outbox.put(claim, runs)
    assert list(outbox.folder.iterdir()) == []


def test_a_worker_without_its_storage_keeps_the_result_and_the_next_one_delivers_it(
    outbox: Outbox, ledger: Ledger, world: SimulatedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise StorageAwayError("no answer")

    kept = ""

    def stop() -> bool:  # once the result waits on disk, the worker is preempted
        nonlocal kept
        kept = kept or next((path.read_text() for path in outbox.folder.glob("*.json")), "")
        return bool(kept)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", away)
        assert work(ledger, world.problem, world.evaluate, outbox=outbox, stop=stop, patience_seconds=60) == 0
    assert ledger.rows()[0].is_open
    assert json.loads(json.loads(kept)["body"])["claim"]["token"] == 1
    again = Ledger(tmp_path / "journal.log")
    work(again, world.problem, world.evaluate, outbox=outbox, stop=lambda: not again.rows()[0].is_open)
    claim = Claim(trial=again.rows()[0].trial, owner="", token=1)
    assert list(again.rows()[0].runs) == runs_of(world, claim)
    assert list(outbox.folder.iterdir()) == []
