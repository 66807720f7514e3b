"""The worker loop: claim a trial or propose one, run it, commit the result, until the budget is spent.

Any number of workers may run on one ledger, start late, and die at any moment. They agree on the trial table because a
proposal is a function of rows that every worker sees alike (:func:`next_step`); they never run a trial twice because a
claim is exclusive; and they lose nothing because a trial whose holder is gone is claimed again and resumes from the
checkpoint folder that its run key names.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from moe_search.search.ledger import MAX_ATTEMPTS, Claim, Ledger
from moe_search.search.problem import Problem
from moe_search.search.suggest import rows_needed, suggest
from moe_search.search.trial import Evaluate, Proposal, Row
from moe_search.spaces.errors import MoESearchError, ResourceError
from moe_search.spaces.run import Run

LOGGER = logging.getLogger(__name__)
MAX_FAILURES = 3
"""Failed trials in a row, each tried several times, after which a worker blames itself and not the designs."""
FASTEST_POLL_SECONDS = 0.02
SLOWEST_POLL_SECONDS = 1.0


class _Yielded(Exception):  # noqa: N818 - not an error: the running trial is given up in good order
    """Raised inside ``evaluate`` by its report: the worker is to stop, or its lease is lost."""


def work(
    ledger: Ledger,
    problem: Problem,
    evaluate: Evaluate,
    *,
    owner: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
    heartbeat_seconds: float = 30.0,
    report_seconds: float = 5.0,
    on_change: Callable[[], None] = lambda: None,
) -> int:
    """Work on a campaign until there is nothing left to do.

    Exceptions of ``evaluate`` mark an attempt as failed, and the trial is tried again, by anybody. Errors that the user
    has to mend (:class:`MoESearchError`: disk full, bad input) and interruptions give the trial back and are raised.

    Args:
        ledger: the campaign.
        problem: what the ledger was created with.
        evaluate: trains a trial; should save checkpoints under the trial's run key.
        owner: a name for people; None: host and process number.
        stop: asked between trials and at every report; True gives back the running trial and returns.
        deadline: like ``stop``, at this ``time.monotonic()``.
        heartbeat_seconds: how often the lease is renewed; several times within ``ledger.lease_seconds``.
        report_seconds: least time between two live values of a trial in the ledger.
        on_change: called after every change that this worker made to the table.

    Returns:
        The number of results this worker committed. The budget is spent, and every trial done, unless ``stop`` or
        ``deadline`` said otherwise.

    Raises:
        ResourceError: the storage does not answer, or everything fails.
    """
    if problem != ledger.problem:
        raise ValueError("problem: the ledger was created with another one")
    owner = owner or f"{socket.gethostname()}:{os.getpid()}"
    done = failures = 0
    pause = FASTEST_POLL_SECONDS

    def must_stop() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    while not must_stop():
        claim = ledger.claim(owner)
        if claim is None:
            step = propose(ledger)
            if step == "done":
                break
            if step == "wait":
                time.sleep(pause)
                pause = min(2 * pause, SLOWEST_POLL_SECONDS)
            else:
                on_change()
            continue
        pause = FASTEST_POLL_SECONDS
        on_change()
        outcome = _run(
            ledger,
            claim,
            evaluate,
            must_stop=must_stop,
            heartbeat_seconds=heartbeat_seconds,
            report_seconds=report_seconds,
        )
        on_change()
        done += outcome == "committed"
        failures = 0 if outcome == "committed" else failures + (outcome == "failed")
        if failures >= MAX_FAILURES:
            message = ledger.rows()[claim.trial.number].message
            raise ResourceError(f"{failures} trials in a row failed, each {MAX_ATTEMPTS} times: {message}")
    return done


def propose(ledger: Ledger) -> Literal["proposed", "wait", "done"]:
    """Append the next trial if it can be known yet, and if no other process is at it.

    Returns:
        ``proposed``: the table has grown, or nearly did; claim again. ``wait``: results, or another process, are needed
        first. ``done``: every trial has its result and the budget pays for no more.
    """
    with ledger.proposing() as obtained:
        if not obtained:
            return "wait"
        rows = ledger.rows()
        step = next_step(ledger.problem, rows)
        if isinstance(step, Proposal):
            ledger.append(step, number=len(rows))
            return "proposed"
        return step


def next_step(problem: Problem, rows: Sequence[Row]) -> Proposal | Literal["wait", "done"]:
    """Return what follows a trial table: a proposal, or that results are needed first, or that the campaign is over.

    Which results have come in beyond those that the lag rule asks for makes no difference. Only when nothing fits into
    what pending trials leave of the budget are they waited for: a diverged one may give some back.
    """
    needed = rows_needed(problem, len(rows))
    if any(row.is_open for row in rows[:needed]):
        return "wait"
    proposals = suggest(problem, rows[:needed], rows[needed:])
    if not proposals and needed < len(rows):
        if any(row.is_open for row in rows):
            return "wait"
        proposals = suggest(problem, rows)
    if proposals:
        return proposals[0]
    return "wait" if any(row.is_open for row in rows) else "done"


def _run(
    ledger: Ledger,
    claim: Claim,
    evaluate: Evaluate,
    *,
    must_stop: Callable[[], bool],
    heartbeat_seconds: float,
    report_seconds: float,
) -> Literal["committed", "failed", "given back"]:
    """Run one claimed trial."""
    next_report = 0.0
    with _alive(ledger, claim, heartbeat_seconds) as lost:

        def report(loss: float, tokens: int) -> None:
            nonlocal next_report
            if lost.is_set() or must_stop():
                raise _Yielded
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + report_seconds
                ledger.report(claim, loss, tokens)

        try:
            runs: list[Run] = evaluate(claim.trial, report)
        except _Yielded:
            ledger.release(claim)
            return "given back"
        except MoESearchError:
            ledger.release(claim)
            raise
        except Exception as error:
            LOGGER.exception("trial %d failed", claim.trial.number)
            again = ledger.fail(claim, f"{type(error).__name__}: {error}")
            return "given back" if again else "failed"
        except BaseException:  # Ctrl-C: somebody may resume at once
            ledger.release(claim)
            raise
    return "committed" if ledger.commit(claim, runs) else "given back"


@contextmanager
def _alive(ledger: Ledger, claim: Claim, seconds: float) -> Iterator[threading.Event]:
    """Renew the lease in the background; the event is set when the lease is lost."""
    lost, over = threading.Event(), threading.Event()

    def renew() -> None:
        while not over.wait(seconds):
            try:
                if not ledger.refresh(claim):
                    lost.set()
                    return
            except ResourceError as error:  # the lease outlasts a short absence of the storage
                LOGGER.warning("the lease of trial %d was not renewed: %s", claim.trial.number, error)

    thread = threading.Thread(target=renew, name=f"lease of trial {claim.trial.number}", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
