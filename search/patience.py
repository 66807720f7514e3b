"""Waiting for a storage that is away: a restarted database is no reason to end a campaign."""

import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from moe_search.search.storage import StorageAwayError

P = ParamSpec("P")
T = TypeVar("T")
LOGGER = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 15.0
"""Seconds between two attempts; each pause is twice the one before."""
LONGEST_SLEEP = 0.25
"""Seconds after which ``stop`` is asked again."""


class Patience:
    """Tries an operation of the ledger again while its storage does not answer.

    Args:
        seconds: after which waiting ends.
        stop: asked while waiting; True ends it.
        say: told once that there is something to wait for, and once that it is over.
    """

    def __init__(
        self,
        seconds: float = 600.0,
        *,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = LOGGER.warning,
    ) -> None:
        self._seconds, self._stop, self._say = seconds, stop, say

    def __call__(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``operation`` returns as soon as the storage lets it.

        Raises:
            StorageAwayError: it did not for so long, or ``stop`` said so.
        """
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                result = operation(*args, **kwargs)
            except StorageAwayError as error:
                if self._stop() or time.monotonic() - began >= self._seconds:
                    raise
                if pause == FIRST_PAUSE:
                    self._say(f"{error}; trying again for {self._seconds:g} seconds")
                self._sleep(min(pause, began + self._seconds - time.monotonic()))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if pause > FIRST_PAUSE:
                    self._say(f"the ledger's storage answers again, after {time.monotonic() - began:.1f} seconds")
                return result

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stop():
            time.sleep(min(left, LONGEST_SLEEP))
