"""SIGTERM in good order: what it means to ``run``, and the hard end of a worker's grace period."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moe_search.experiments.cli.exits import ExitCode

LOGGER = logging.getLogger(__name__)
POLL_SECONDS = 0.2


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM, by which schedulers and containers say Ctrl-C, as that; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_within(seconds: float, stop: Callable[[], bool]) -> None:
    """End this process so long after it was asked to stop, whatever it is doing then.

    A worker that stops in good order is gone long before. One that cannot, because a disk or a server does not answer,
    must not wait for whoever kills it: its machine may be taken away a moment later, in the middle of a write. What it
    leaves is what a killed worker leaves, a checkpoint and a lease, and its trial is resumed elsewhere.

    Args:
        seconds: the grace period.
        stop: whether it was asked.
    """

    def watch() -> None:
        while not stop():
            time.sleep(POLL_SECONDS)
        time.sleep(seconds)
        LOGGER.warning("the worker has not stopped within %g seconds, and is ended", seconds)
        os._exit(ExitCode.INTERRUPTED)

    threading.Thread(target=watch, name="grace period", daemon=True).start()
