"""The mirror: it never holds anybody up, says once that a store is away and once that it is back, and loses nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from moe_search.experiments import mirroring
from moe_search.experiments.cli.interrupts import UNATTENDED
from moe_search.experiments.mirroring import Mirror
from moe_search.experiments.tracked import Picture, RefusedError, TrackedTrial
from moe_search.spaces.errors import ResourceError


@dataclass
class FakeStore:
    """A store that may be away, refuse, or be slow."""

    trouble: list[Exception] = field(default_factory=list)
    """Raised by the next attempts, one each."""
    seconds_a_run: float = 0.0
    shown: list[int] = field(default_factory=list)
    attempts: int = 0
    done: bool = False

    def show(self, picture: Picture, written: Callable[[], None]) -> None:
        self.attempts += 1
        if self.trouble:
            raise self.trouble.pop(0)
        for trial in picture.trials:
            if trial.number not in self.shown:
                time.sleep(self.seconds_a_run)
                self.shown.append(trial.number)
                written()
        self.done = picture.is_done


@dataclass
class Scene:
    """A mirror of ``store``, and what it has said."""

    store: FakeStore
    others_turns: int = 0
    """How often another process is writing when the mirror asks."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        self.mirror = Mirror(
            "somewhere", self.open, turn=self.turn, warn=self.warnings.append, log=self.notes.append, first_pause=0.01
        )

    def open(self) -> FakeStore:
        self.opened += 1
        return self.store

    @contextmanager
    def turn(self) -> Iterator[bool]:
        self.others_turns -= 1
        yield self.others_turns < 0


def picture(count: int, *, is_done: bool = False) -> Picture:
    trials = [TrackedTrial(number=n, name=str(n), status="finished", start=0.0, end=1.0) for n in range(count)]
    return Picture(trials, is_done=is_done)


def away(count: int) -> list[Exception]:
    return [ResourceError("MLflow at somewhere cannot be used: no answer") for _ in range(count)]


def test_everything_asked_for_is_shown_and_only_the_latest_matters() -> None:
    scene = Scene(FakeStore(seconds_a_run=0.001))
    for count in range(50):
        scene.mirror.show(picture(count))
    scene.mirror.show(picture(50, is_done=True))
    assert scene.mirror.close()
    assert scene.store.shown == list(range(50))
    assert scene.store.done
    assert scene.store.attempts < 52
    assert (scene.warnings, scene.notes) == ([], [])


def test_nothing_is_opened_where_nothing_is_shown() -> None:
    scene = Scene(FakeStore())
    assert scene.mirror.close()
    assert scene.opened == 0


def test_a_store_that_was_away_is_one_warning_and_one_note() -> None:
    scene = Scene(FakeStore(trouble=away(4)))
    scene.mirror.show(picture(3))
    assert scene.mirror.close()
    assert scene.store.shown == [0, 1, 2]
    assert len(scene.warnings) == len(scene.notes) == 1
    assert "it is tried again" in scene.warnings[0]
    assert "answers again" in scene.notes[0]


def test_a_connection_that_broke_once_is_not_talked_about() -> None:
    scene = Scene(FakeStore(trouble=away(1)))
    scene.mirror.show(picture(3))
    assert scene.mirror.close()
    assert (scene.store.shown, scene.warnings, scene.notes) == ([0, 1, 2], [], [])


def test_pauses_grow_and_the_end_calls_for_one_more_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(FakeStore(trouble=away(8)))
    began = time.monotonic()
    scene.mirror.show(picture(1))
    while scene.store.attempts < 6:
        time.sleep(0.005)
    assert time.monotonic() - began >= 0.01 * (1 + 2 + 4 + 8 + 16)
    monkeypatch.setattr(mirroring, "PAUSE_AT_THE_END", 0.02)
    assert scene.mirror.close(), "two more failures, then it answers"
    assert scene.store.shown == [0]


def test_what_is_missing_at_the_end_is_said_and_costs_bounded_time() -> None:
    scene = Scene(FakeStore(trouble=away(100_000)))
    scene.mirror.show(picture(1))
    began = time.monotonic()
    assert not scene.mirror.close(idle=0.2)
    assert time.monotonic() - began < 2
    assert "the next `moe-search run` writes what is missing" in scene.warnings[-1]


def test_a_store_that_hangs_holds_nobody_up() -> None:
    scene = Scene(FakeStore(seconds_a_run=30.0))
    began = time.monotonic()
    scene.mirror.show(picture(1))
    assert not scene.mirror.close(at_most=0.1)
    assert time.monotonic() - began < 2
    left = [thread for thread in threading.enumerate() if thread.name.startswith(UNATTENDED)]
    assert left, "the command's end recognises it"
    assert all(thread.daemon for thread in left)


def test_a_slow_store_is_waited_for_as_long_as_it_takes_runs() -> None:
    scene = Scene(FakeStore(seconds_a_run=0.05))
    scene.mirror.show(picture(10))
    assert scene.mirror.close(idle=0.3), "0.5 s in all, never 0.3 s without a run"
    assert len(scene.store.shown) == 10


@pytest.mark.parametrize("error", [RefusedError("a wrong password"), AssertionError("our own mistake")])
def test_a_store_that_refuses_is_not_asked_again(error: Exception) -> None:
    scene = Scene(FakeStore(trouble=[error]))
    scene.mirror.show(picture(1))
    assert not scene.mirror.close()
    scene.mirror.show(picture(2))
    assert scene.store.attempts == 1
    assert len(scene.warnings) == 1
    assert str(error) in scene.warnings[0]
    assert "the search goes on" in scene.warnings[0]


def test_while_another_process_writes_it_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "PAUSE_FOR_ANOTHER", 0.01)
    scene = Scene(FakeStore(), others_turns=3)
    scene.mirror.show(picture(2))
    assert scene.mirror.close()
    assert (scene.store.attempts, scene.store.shown, scene.warnings) == (1, [0, 1], [])
