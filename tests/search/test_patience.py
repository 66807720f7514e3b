from types import SimpleNamespace

import pytest

from moe_search.search import patience as patience_module
from moe_search.search.patience import LONGEST_PAUSE, Patience
from moe_search.search.storage import StorageAwayError
from moe_search.spaces.errors import ResourceError


class Storage:
    """Answers at a moment of a clock that only sleeping moves."""

    def __init__(self, back_at: float) -> None:
        self.now, self.back_at = 0.0, back_at
        self.asked: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.25, "a worker that is asked to stop must not sleep long"
        self.now += seconds

    def ask(self, question: str) -> str:
        self.asked.append(self.now)
        if self.now < self.back_at:
            raise StorageAwayError("no answer")
        return f"{question}: yes"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    storage = Storage(back_at=100.0)
    monkeypatch.setattr(patience_module, "time", SimpleNamespace(monotonic=lambda: storage.now, sleep=storage.sleep))
    return storage


def test_it_waits_with_growing_pauses_and_says_so_twice(storage: Storage) -> None:
    said: list[str] = []
    assert Patience(600, say=said.append)(storage.ask, "there") == "there: yes"
    pauses = [later - earlier for earlier, later in zip(storage.asked, storage.asked[1:], strict=False)]
    assert pauses == pytest.approx(sorted(pauses))
    assert pauses[0] < 0.2
    assert max(pauses) == pytest.approx(LONGEST_PAUSE)
    assert len(pauses) < 16
    assert len(said) == 2
    assert said[0] == "no answer; trying again for 600 seconds"
    assert "answers again, after" in said[1]


def test_it_ends_and_says_nothing_where_there_is_nothing_to_wait_for(storage: Storage) -> None:
    said: list[str] = []
    with pytest.raises(StorageAwayError):
        Patience(30, say=said.append)(storage.ask, "there")
    assert storage.now == pytest.approx(30)
    storage.now = storage.back_at
    said.clear()
    assert Patience(say=said.append)(storage.ask, "there") == "there: yes"
    assert said == []


def test_who_is_asked_to_stop_waits_no_longer(storage: Storage) -> None:
    with pytest.raises(StorageAwayError):
        Patience(600, stop=lambda: storage.now >= 1, say=lambda _: None)(storage.ask, "there")
    assert storage.now < 1.5


def test_other_errors_are_not_waited_for(storage: Storage) -> None:
    def full() -> None:
        raise ResourceError("the disk is full")

    with pytest.raises(ResourceError, match="full"):
        Patience()(full)
    assert storage.now == 0
