"""The trial table in any Optuna storage: a journal file or SQLite, for the processes of one machine.

An Optuna trial is one row. Its flat parameters are for the dashboard; user attributes hold what counts:

========== ==================================================================================================
``trial``  the :class:`~moe_search.search.trial.Trial`, written with the row
``lease``  the :class:`~moe_search.search.lease.Lease` of whoever works on it
``errors`` messages of the attempts that raised an exception
``runs``   the result. Writing it is the commit: it happens once, before the trial is told, and whoever finds a
           result untold (its writer was killed in between) tells it
``token``  of whoever brought it
========== ==================================================================================================

Everything that reads before it writes happens under one lock that dies with its process
(:mod:`~moe_search.search.exclusive`), so no crash can leave half a decision; and a row is written in one journal line
or one transaction.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from moe_search.search.exclusive import Exclusive
from moe_search.search.lease import Lease, new_lease, this_process
from moe_search.search.presence import Note
from moe_search.search.table import MAX_ATTEMPTS, MAX_LOSSES, History, Interruptions, Known, Live, Taken
from moe_search.search.trial import Row, RowState
from moe_search.spaces.run import Run

LOGGER = logging.getLogger(__name__)
NOTE = "worker/"
"""Before a worker's name: the study's user attribute with its note."""
RENEWED_SHARE = 0.75
"""A live value renews a lease of which less than this is left."""


class OptunaTable:
    """The trials of a study.

    Args:
        storage: Optuna's.
        locks: of the same storage.
        study_id: of the study.
    """

    slowest_poll_seconds = 1.0
    live_seconds = 1.0
    version = None

    def __init__(self, storage: BaseStorage, locks: Exclusive, study_id: int) -> None:
        self._storage, self._locks, self._study_id = storage, locks, study_id
        self._known = Known()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the ledger's lock: nobody else reads before writing meanwhile. Not re-entrant; keep it short."""
        with self._locks.hold("ledger"):
            yield

    def alone(self, role: str) -> AbstractContextManager[bool]:
        """Try to be the only one in a role."""
        return self._locks.hold(role, wait=False)

    def rows(self) -> list[Row]:
        """Return the trial table. A trial with a result is finished, told or not."""
        return [self._row(frozen) for frozen in self._all()]

    def _row(self, frozen: FrozenTrial) -> Row:
        if "runs" in frozen.user_attrs:
            state: RowState = "finished"
        elif frozen.state == TrialState.FAIL:
            state = "failed"
        else:
            state = "waiting" if frozen.state == TrialState.WAITING else "running"
        return self._known.row(frozen.number, state, frozen.user_attrs)

    def append(self, number: int, frozen: FrozenTrial) -> bool:
        """Append a trial as one line or transaction."""
        with self.exclusive():
            if len(self._all()) != number:
                return False
            self._storage.create_new_trial(self._study_id, frozen)
        return True

    def claim(self, owner: str, seconds: float) -> Taken | None:
        """Lease the first free trial; results that were committed but not told are told on the way."""
        with self.exclusive():
            for frozen in self._all():
                if frozen.state.is_finished():
                    continue
                if "runs" in frozen.user_attrs:
                    self._tell(frozen, self._row(frozen).runs)
                    continue
                lease = _lease(frozen)
                if lease is not None and lease.is_held():
                    continue
                losses = lease.losses + (not lease.released) if lease else 0
                if losses >= MAX_LOSSES:
                    self._give_up(frozen, f"its worker was lost {losses} times")
                    continue
                token = lease.token + 1 if lease else 1
                preemptions = lease.preemptions if lease else 0
                if frozen.state == TrialState.WAITING:
                    self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING)
                self._set_lease(frozen, new_lease(owner, token, seconds, losses=losses, preemptions=preemptions))
                return Taken(self._row(frozen).trial, token)
        return None

    def renew(self, number: int, token: int, seconds: float) -> bool:
        """Extend a lease."""
        with self.exclusive():
            frozen = self._frozen(number)
            lease = _lease(frozen)
            if lease is None or not _holds(frozen, token):
                return False
            self._set_lease(frozen, lease.replace(expires_at=time.time() + seconds))
        return True

    def report(self, number: int, token: int, seconds: float, loss: float, tokens: int) -> bool:
        """Record a live value."""
        frozen = self._frozen(number)
        lease = _lease(frozen)
        if lease is None or not _holds(frozen, token):
            return False
        self._storage.set_trial_intermediate_value(frozen._trial_id, tokens, loss)
        if lease.expires_at - time.time() < RENEWED_SHARE * seconds:
            return self.renew(number, token, seconds)
        return True

    def release(self, number: int, token: int) -> None:
        """Give a trial back."""
        with self.exclusive():
            frozen = self._frozen(number)
            lease = _lease(frozen)
            if lease is not None and _holds(frozen, token):
                self._set_lease(frozen, lease.replace(released=True, preemptions=lease.preemptions + 1))

    def commit(self, number: int, token: int, runs: Sequence[Run]) -> bool:
        """Store a result, then tell it."""
        with self.exclusive():
            frozen = self._frozen(number)
            if "runs" in frozen.user_attrs:
                return frozen.user_attrs.get("token") == token
            if frozen.state.is_finished():
                return False
            self._set(frozen, "token", token)  # before the result, which vouches for it
            self._set(frozen, "runs", [run.model_dump(mode="json") for run in runs])
            self._tell(frozen, runs)
        return True

    def fail(self, number: int, token: int, message: str) -> bool:
        """Record an attempt that raised."""
        with self.exclusive():
            frozen = self._frozen(number)
            lease = _lease(frozen)
            if lease is None or not _holds(frozen, token):
                return not frozen.state.is_finished()
            errors = [*frozen.user_attrs.get("errors", ()), message]
            if len(errors) >= MAX_ATTEMPTS:
                self._give_up(frozen, message)
                return False
            self._set(frozen, "errors", errors)
            self._set_lease(frozen, lease.replace(released=True))
        return True

    def progress(self) -> dict[int, tuple[Lease | None, Live]]:
        """Return lease and latest live value of every running trial."""
        return {
            frozen.number: (_lease(frozen), dict(sorted(frozen.intermediate_values.items())[-1:]))
            for frozen in self._all()
            if frozen.state == TrialState.RUNNING and "runs" not in frozen.user_attrs
        }

    def history(self, numbers: Iterable[int]) -> dict[int, History]:
        """Return times and curves; they are in memory anyway."""
        wanted = set(numbers)
        return {
            frozen.number: History(
                started=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
                ended=frozen.datetime_complete.timestamp() if frozen.datetime_complete else None,
                curve=dict(sorted(frozen.intermediate_values.items())),
            )
            for frozen in self._all()
            if frozen.number in wanted
        }

    def interruptions(self) -> Interruptions:
        """Count them, over all trials."""
        trials = self._all()
        leases = [lease for frozen in trials if (lease := _lease(frozen)) is not None]
        return Interruptions(
            preempted=sum(lease.preemptions for lease in leases),
            lost=sum(lease.losses for lease in leases),
            error=sum(len(frozen.user_attrs.get("errors", ())) for frozen in trials),
        )

    def note(self, owner: str, state: Literal["idle", "ended"]) -> None:
        """Write a user attribute of the study."""
        host, pid, process_started = this_process()
        note = Note(
            owner=owner, state=state, seen=time.time(), host=host, pid=pid, process_started=process_started
        ).model_dump()
        self._storage.set_study_user_attr(self._study_id, NOTE + owner, note)

    def notes(self) -> list[Note]:
        """Read them."""
        attributes = self._storage.get_study_user_attrs(self._study_id)
        return [Note.model_validate(value) for key, value in attributes.items() if key.startswith(NOTE)]

    def _all(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._storage.get_trial(trial_id)

    def _set(self, frozen: FrozenTrial, key: str, value: object) -> None:
        self._storage.set_trial_user_attr(frozen._trial_id, key, value)

    def _set_lease(self, frozen: FrozenTrial, lease: Lease) -> None:
        self._set(frozen, "lease", lease.model_dump())

    def _tell(self, frozen: FrozenTrial, runs: Sequence[Run]) -> None:
        self._set(frozen, "status", runs[-1].status)
        value = runs[-1].bpb
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._storage.set_trial_state_values(frozen._trial_id, state, None if value is None else [value])

    def _give_up(self, frozen: FrozenTrial, message: str) -> None:
        self._set(frozen, "errors", [*frozen.user_attrs.get("errors", ()), message])
        self._storage.set_trial_state_values(frozen._trial_id, TrialState.FAIL)


def _lease(frozen: FrozenTrial) -> Lease | None:
    return Lease.model_validate(frozen.user_attrs["lease"]) if "lease" in frozen.user_attrs else None


def _holds(frozen: FrozenTrial, token: int) -> bool:
    lease = _lease(frozen)
    open_for_results = not frozen.state.is_finished() and "runs" not in frozen.user_attrs
    return open_for_results and lease is not None and lease.token == token and not lease.released
