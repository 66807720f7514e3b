"""MLflow is brought up to date on a thread of its own, so that neither the search nor Ctrl-C ever waits for a server.

The trial table is the truth and the store its mirror image, so nothing is buffered here but the latest picture: where
the store does not answer, the same picture, or a newer one, is tried again after a growing pause. What is still missing
when the command ends is written by the next one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from moe_search.experiments.cli.interrupts import UNATTENDED
from moe_search.experiments.tracked import Picture, RefusedError
from moe_search.spaces.errors import ResourceError

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts at a store that does not answer; each pause is twice the one before."""
UNNOTICED = 1
"""Failures in a row that nobody is told of: a connection that broke once is none of the user's business."""
PAUSE_FOR_ANOTHER = 1.0
"""Seconds before asking again where another process is writing the same campaign."""
PAUSE_AT_THE_END = 2.0
"""The longest pause while somebody waits for the rest to be written."""
FLUSH_SECONDS = 60.0
"""How long the end of a campaign waits for a store that takes nothing; while runs are written it waits for the rest."""
PARTING_SECONDS = 5.0
"""How long Ctrl-C waits for it at most."""


class Store(Protocol):
    """Where a picture goes; :class:`moe_search.experiments.tracking.Tracker` in earnest."""

    def show(self, picture: Picture, written: Callable[[], None]) -> None:
        """Bring the store up to ``picture``, calling ``written`` after each run.

        Raises:
            RefusedError: it is of no use to try again.
            ResourceError: the store does not answer.
        """
        ...


class Mirror:
    """Shows the latest picture that it was given.

    Args:
        name: of the store, in sentences; without secrets.
        opening: opens the store, on the thread, because importing MLflow takes seconds.
        turn: holds the right to write; its value is False while another process has it.
        warn: told once when the store does not answer, or refuses.
        log: told when it answers again.
        first_pause: seconds.
    """

    def __init__(
        self,
        name: str,
        opening: Callable[[], Store],
        *,
        turn: Callable[[], AbstractContextManager[bool]],
        warn: Callable[[str], None],
        log: Callable[[str], None],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._name, self._opening, self._turn, self._warn, self._log = name, opening, turn, warn, log
        self._first_pause = first_pause
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        self._wanted = self._shown = Picture()
        self._is_closing = self._is_refused = self._is_abandoned = False
        self._last_success = time.monotonic()

    def show(self, picture: Picture) -> None:
        """Ask for ``picture`` in place of the one asked for before; returns at once."""
        with self._changed:
            self._wanted = picture
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"{UNATTENDED}: MLflow", daemon=True)
            self._thread.start()

    def close(self, *, idle: float = FLUSH_SECONDS, at_most: float = float("inf")) -> bool:
        """Wait until everything is written, or until the store is given up.

        Args:
            idle: seconds to wait for a store that takes nothing.
            at_most: seconds to wait in any case.

        Returns:
            Whether everything has been written; if not, that has been said.
        """
        deadline = time.monotonic() + at_most
        with self._changed:
            self._last_success = time.monotonic()
            self._is_closing = True
            self._changed.notify_all()
            while not self._is_done():
                left = min(deadline, self._last_success + idle) - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
            self._is_abandoned = True
            self._changed.notify_all()
            done = self._is_done()
        if not done:
            self._warn(f"MLflow at {self._name} has not taken everything yet; {WHO_WRITES_IT}")
        return done and not self._is_refused

    def _is_done(self) -> bool:
        return self._is_refused or self._wanted is self._shown

    def _work(self) -> None:
        failures, pause = 0, self._first_pause
        while (picture := self._next()) is not None:
            try:
                with self._turn() as is_ours:
                    if is_ours:
                        self._attempt(picture)
            except RefusedError as error:
                self._give_up(str(error))
                return
            except ResourceError as error:
                failures += 1
                if failures == UNNOTICED + 1:
                    self._warn(f"{error}; the search goes on, and it is tried again")
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except Exception as error:  # noqa: BLE001 - a campaign of weeks does not end because its mirror has a fault
                self._give_up(f"MLflow at {self._name}: {type(error).__name__}: {error}")
                return
            if not is_ours:
                self._rest(PAUSE_FOR_ANOTHER)
                continue
            if failures > UNNOTICED:
                self._log(f"MLflow at {self._name} answers again and has everything so far")
            failures, pause = 0, self._first_pause
            with self._changed:
                self._shown = picture
                self._changed.notify_all()

    def _next(self) -> Picture | None:
        """Wait for a picture that is not shown yet; None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted is not self._shown or self._is_closing)
            return None if self._wanted is self._shown or self._is_abandoned else self._wanted

    def _attempt(self, picture: Picture) -> None:
        if self._store is None:
            self._store = self._opening()
        self._store.show(picture, self._count)

    def _count(self) -> None:
        """Note that a run has been written; stop in the middle of a picture where nobody waits for it any more."""
        with self._changed:
            self._last_success = time.monotonic()
            if self._is_abandoned:
                raise RefusedError("the command has ended")

    def _rest(self, seconds: float) -> None:
        """Pause; the beginning of the end calls for one more attempt at once."""
        with self._changed:
            if self._is_closing:
                self._changed.wait_for(lambda: self._is_abandoned, min(seconds, PAUSE_AT_THE_END))
            else:
                self._changed.wait_for(lambda: self._is_closing, seconds)

    def _give_up(self, reason: str) -> None:
        with self._changed:
            self._is_refused = True
            self._changed.notify_all()
            is_known = self._is_abandoned
        if not is_known:
            self._warn(f"{reason}; the search goes on, and {WHO_WRITES_IT}")


WHO_WRITES_IT = "the next `moe-search run` writes what is missing"
