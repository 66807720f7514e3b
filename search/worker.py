"""The worker loop: claim a trial or propose one, run it, commit the result, until the budget is spent.

Any number of workers may run on one ledger, start late, and die at any moment. They agree on the trial table because a
proposal is a function of rows that every worker sees alike (:func:`next_step`); they never run a trial twice because a
claim is exclusive; and they lose nothing because a trial whose holder is gone is claimed again and resumes from the
checkpoint folder that its run key names.

The storage may go away meanwhile. A worker that trains goes on training, for it speaks to the storage from a thread of
its own (:mod:`~moe_search.search.lifeline`); one that has a result writes it down (:mod:`~moe_search.search.outbox`)
and waits; one that has nothing waits too.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal

from moe_search.search.ledger import MAX_ATTEMPTS, Ledger
from moe_search.search.lifeline import Lifeline
from moe_search.search.outbox import Outbox
from moe_search.search.patience import LONGEST_SLEEP, Patience
from moe_search.search.presence import NOTE_SECONDS
from moe_search.search.problem import Problem
from moe_search.search.storage import StorageAwayError
from moe_search.search.suggest import rows_needed, suggest
from moe_search.search.trial import Claim, Evaluate, Proposal, Row
from moe_search.spaces.errors import MoESearchError, ResourceError
from moe_search.spaces.run import Run

LOGGER = logging.getLogger(__name__)
MAX_FAILURES = 3
"""Failed trials in a row, each tried several times, after which a worker blames itself and not the designs."""
FASTEST_POLL_SECONDS = 0.02
POLL_SHARE = 0.1
"""An idle worker pauses for this share of the time that it has been idle, so that it comes late by no more of it."""
QUEUE_SHARE = 8
"""Whoever proposes leaves one trial in the queue for itself, and one more for every so many that may be in flight."""


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
    patience_seconds: float = 600.0,
    outbox: Outbox | None = None,
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
        report_seconds: least time between two live values of a trial in the ledger; there are no more than about
            :data:`~moe_search.search.lifeline.LIVE_VALUES` in any case.
        patience_seconds: how long a storage that does not answer is waited for.
        outbox: where results wait that the storage does not take; what is found there is delivered.
        on_change: called after every change that this worker made to the table.

    Returns:
        The number of results this worker committed. The budget is spent, and every trial done, unless ``stop`` or
        ``deadline`` said otherwise.

    Raises:
        StorageAwayError: the storage did not answer for ``patience_seconds``.
        ResourceError: the storage cannot be written, or everything fails.
    """
    if problem != ledger.problem:
        raise ValueError("problem: the ledger was created with another one")
    owner = owner or f"{socket.gethostname()}:{os.getpid()}"

    def must_stop() -> bool:
        return stop() or (deadline is not None and time.monotonic() >= deadline)

    worker = _Worker(
        ledger,
        evaluate,
        owner=owner,
        must_stop=must_stop,
        patience=Patience(patience_seconds, stop=must_stop),
        outbox=outbox,
        heartbeat_seconds=heartbeat_seconds,
        report_seconds=report_seconds,
        on_change=on_change,
    )
    try:
        return worker.work()
    finally:
        _try(ledger.attend, owner, "ended")


class _Worker:
    """What :func:`work` was told, and what it remembers."""

    def __init__(
        self,
        ledger: Ledger,
        evaluate: Evaluate,
        *,
        owner: str,
        must_stop: Callable[[], bool],
        patience: Patience,
        outbox: Outbox | None,
        heartbeat_seconds: float,
        report_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self.ledger, self.evaluate, self.owner = ledger, evaluate, owner
        self.must_stop, self.patience, self.outbox = must_stop, patience, outbox
        self.heartbeat_seconds, self.report_seconds, self.on_change = heartbeat_seconds, report_seconds, on_change
        self._done = self._failures = 0
        self._waits_since: int | None = None

    def work(self) -> int:
        """Claim, or propose, or wait, until there is nothing more to do."""
        idle = _Idleness()
        try:
            while not self.must_stop():
                if self.outbox is not None and self.patience(self.outbox.deliver, self.ledger):
                    self.on_change()
                claim = self.patience(self.ledger.claim, self.owner)
                if claim is not None:
                    idle.end()
                    self._take(claim)
                    continue
                step = self._propose()
                if step == "done":
                    break
                if step == "proposed":
                    self.on_change()
                    continue
                if idle.is_to_be_told():
                    self.patience(self.ledger.attend, self.owner, "idle")
                idle.pause(self.ledger.slowest_poll_seconds, self.must_stop)
        except StorageAwayError:
            if not self.must_stop():
                raise
        return self._done

    def _propose(self) -> Literal["proposed", "wait", "busy", "done"]:
        """Propose, unless that had to wait for results and nothing has happened since."""
        version = self.ledger.version
        if version is not None and version == self._waits_since:
            return "wait"
        step = self.patience(propose, self.ledger)
        # A result that came in while the table was read has raised the number, so none is overlooked.
        self._waits_since = version if step == "wait" else None
        return step

    def _take(self, claim: Claim) -> None:
        self.on_change()
        outcome = self._run(claim)
        self.on_change()
        self._done += outcome == "committed"
        self._failures = 0 if outcome == "committed" else self._failures + (outcome == "failed")
        if self._failures >= MAX_FAILURES:
            message = self.patience(self.ledger.rows)[claim.trial.number].message
            raise ResourceError(f"{self._failures} trials in a row failed, each {MAX_ATTEMPTS} times: {message}")

    def _run(self, claim: Claim) -> Literal["committed", "failed", "given back"]:
        """Run one claimed trial."""
        lifeline = Lifeline(
            self.ledger, claim, heartbeat_seconds=self.heartbeat_seconds, report_seconds=self.report_seconds
        )

        def report(loss: float, tokens: int) -> None:
            if lifeline.is_cut or self.must_stop():
                raise _Yielded
            lifeline.say(loss, tokens)

        try:
            with lifeline:
                runs: list[Run] = self.evaluate(claim.trial, report)
        except _Yielded:
            _try(self.ledger.release, claim)
            return "given back"
        except MoESearchError:
            _try(self.ledger.release, claim)
            raise
        except Exception as error:
            LOGGER.exception("trial %d failed", claim.trial.number)
            again = self.patience(self.ledger.fail, claim, f"{type(error).__name__}: {error}")
            return "given back" if again else "failed"
        except BaseException:  # Ctrl-C: somebody may resume at once
            _try(self.ledger.release, claim)
            raise
        return "committed" if self._commit(claim, runs) else "given back"

    def _commit(self, claim: Claim, runs: Sequence[Run]) -> bool:
        """Bring a result to the ledger, or to the outbox first if that does not answer."""
        try:
            committed = self.ledger.commit(claim, runs)
        except StorageAwayError as error:
            if self.outbox is None:
                return self.patience(self.ledger.commit, claim, runs)
            self.outbox.put(claim, runs)
            LOGGER.warning("the result of trial %d waits in %s: %s", claim.trial.number, self.outbox.folder, error)
            committed = self.patience(self.ledger.commit, claim, runs)
            self.outbox.drop(claim)
        if not committed:
            LOGGER.warning("trial %d has a result already; a second one is refused", claim.trial.number)
        return committed


class _Idleness:
    """How long a worker has had nothing to do, and how long it pauses therefore."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told: float | None = None

    def end(self) -> None:
        """There is something to do; the lease tells that the worker is there."""
        self._since, self._told = None, time.monotonic()

    def is_to_be_told(self) -> bool:
        """Say whether it is time for a note."""
        now = time.monotonic()
        if self._told is not None and now - self._told < NOTE_SECONDS:
            return False
        self._told = now
        return True

    def pause(self, slowest: float, must_stop: Callable[[], bool]) -> None:
        """Sleep for a share of the time spent idle so far."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        until = now + min(max(FASTEST_POLL_SECONDS, POLL_SHARE * (now - self._since)), slowest)
        while (left := until - time.monotonic()) > 0 and not must_stop():
            time.sleep(min(left, LONGEST_SLEEP))


def _try(operation: Callable[..., object], *args: object) -> None:
    """Do what is only a courtesy: if the storage cannot be had, the lease runs out instead."""
    try:
        operation(*args)
    except ResourceError as error:
        LOGGER.warning("%s", error)


def propose(ledger: Ledger) -> Literal["proposed", "wait", "busy", "done"]:
    """Append the next trials if they can be known yet, and if no other process is at it.

    Whoever reads the table to propose goes on until there is a small queue, so that where many work at once few read.

    Returns:
        ``proposed``: the table has grown, or nearly did; claim again. ``wait``: results are needed first. ``busy``:
        another process is at it. ``done``: every trial has its result and the budget pays for no more.
    """
    with ledger.proposing() as obtained:
        if not obtained:
            return "busy"
        has_proposed = False
        while True:
            rows = ledger.rows()
            step = next_step(ledger.problem, rows)
            if not isinstance(step, Proposal):
                return "proposed" if has_proposed else step
            has_proposed = True
            ledger.append(step, number=len(rows))
            if 1 + sum(row.state == "waiting" for row in rows) > ledger.problem.lag // QUEUE_SHARE:
                return "proposed"


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
