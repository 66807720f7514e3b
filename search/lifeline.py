"""What a training worker says to the ledger: that it lives, and how the loss goes.

A thread of its own speaks, so that a database that is slow, or away, never holds up the training. What could not be
said is said later; the lease is renewed by every live value and, where there are none, by a heartbeat.
"""

import logging
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from moe_search.search.ledger import Ledger
from moe_search.search.storage import StorageAwayError
from moe_search.search.trial import Claim
from moe_search.spaces.errors import ResourceError

LOGGER = logging.getLogger(__name__)
LIVE_VALUES = 50
"""Of one trial at most, about: a value is dropped if less than this part of its tokens passed since the last."""
FIRST_PAUSE = 0.5
"""Seconds before the next attempt at a storage that does not answer; each pause is twice the one before, up to the
heartbeat's."""
PARTING_SECONDS = 5.0
"""How long the end of a trial waits for the last words to be said."""


class Lifeline:
    """A claim's connection to the ledger, for the length of a ``with`` block.

    Args:
        ledger: the campaign.
        claim: what is worked on.
        heartbeat_seconds: the lease is renewed at least so often.
        report_seconds: least time between two live values.
    """

    def __init__(self, ledger: Ledger, claim: Claim, *, heartbeat_seconds: float, report_seconds: float) -> None:
        self._ledger, self._claim = ledger, claim
        self._heartbeat_seconds, self._report_seconds = heartbeat_seconds, report_seconds
        self._tokens_between = claim.trial.scale.tokens / LIVE_VALUES
        self._next_report, self._next_tokens = 0.0, 0.0
        self._values: deque[tuple[float, int]] = deque(maxlen=LIVE_VALUES)
        self._changed = threading.Condition()
        self._is_over = self._is_cut = False
        self._thread = threading.Thread(target=self._speak, name=f"lease of trial {claim.trial.number}", daemon=True)

    @property
    def is_cut(self) -> bool:
        """Whether the lease is lost: another worker may have the trial, or its result is there."""
        return self._is_cut

    def say(self, loss: float, tokens: int) -> None:
        """Pass on a live value, or drop it if it comes too soon after the last; returns at once."""
        now = time.monotonic()
        if now < self._next_report or tokens < self._next_tokens:
            return
        self._next_report, self._next_tokens = now + self._report_seconds, tokens + self._tokens_between
        with self._changed:
            self._values.append((loss, tokens))
            self._changed.notify()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(PARTING_SECONDS)

    def _has_ended(self) -> bool:
        return self._is_over

    def _has_word(self) -> bool:
        return self._is_over or bool(self._values)

    def _speak(self) -> None:
        renewed, pause = time.monotonic(), 0.0
        while not self._is_cut:
            with self._changed:
                due = renewed + self._heartbeat_seconds - time.monotonic()
                self._changed.wait_for(self._has_word if not pause else self._has_ended, pause or max(due, 0.0))
                value = self._values[0] if self._values else None
                if self._is_over and (value is None or pause):
                    return
            if value is None and time.monotonic() < renewed + self._heartbeat_seconds:
                continue
            try:
                if value is None:
                    self._is_cut = not self._ledger.refresh(self._claim)
                else:
                    self._is_cut = not self._ledger.report(self._claim, *value)
                    self._values.popleft()
            except StorageAwayError as trouble:
                if not pause:
                    LOGGER.warning("trial %d goes on without the ledger: %s", self._claim.trial.number, trouble)
                pause = min(max(2 * pause, FIRST_PAUSE), self._heartbeat_seconds)
            except ResourceError as trouble:  # a full disk, say: a live value is not worth more than this line
                LOGGER.warning("trial %d cannot be written about: %s", self._claim.trial.number, trouble)
                pause = self._heartbeat_seconds
            else:
                if pause:
                    LOGGER.warning("trial %d is in touch with the ledger again", self._claim.trial.number)
                renewed, pause = time.monotonic(), 0.0
