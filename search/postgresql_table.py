"""The trial table in PostgreSQL: every step of the protocol is one transaction, most are one statement.

Optuna's tables hold what they hold elsewhere (:mod:`~moe_search.search.optuna_table`), so its dashboard shows the
campaign; three small tables of ours stand beside them (:mod:`~moe_search.search.postgresql_schema`). A lease is a row
with a moment, ``free_at``, from which its trial may be taken: ``-infinity`` while nobody has it, ``infinity`` once it
has a result. So "is there anything to do" is one look into an index, and no worker ever reads the whole table to ask.

All moments are the database's: machines need not agree on the time. Nobody waits for a lock to renew, to report or to
claim (``SKIP LOCKED``). Optuna's own functions would take a dozen transactions for a trial and a hundred statements for
a proposal; they are read by, not written through.

Leader election is an advisory lock of one open transaction: it ends with its holder's connection at the latest, so it
needs no expiry, and it passes through pgbouncer's transaction mode.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, TypeVar

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Engine, TextClause
from sqlalchemy.exc import DBAPIError

from moe_search.search import postgresql_statements as sql
from moe_search.search.exclusive import AdvisoryLocks
from moe_search.search.lease import Lease, is_dead, this_host, this_process
from moe_search.search.postgresql_schema import adopt
from moe_search.search.presence import Note
from moe_search.search.table import MAX_ATTEMPTS, MAX_LOSSES, History, Interruptions, Known, Live, Taken
from moe_search.search.trial import Row, RowState, Trial
from moe_search.spaces.run import Run

T = TypeVar("T")
STATES: dict[str, RowState] = {
    "WAITING": "waiting",
    "RUNNING": "running",
    "COMPLETE": "finished",
    "PRUNED": "finished",
    "FAIL": "failed",
}


class PostgreSQLTable:
    """The trials of a study.

    Args:
        engine: of the database, with its schema created.
        locks: of the study.
        study_id: of the study.
        lease_seconds: what a trial that runs without a lease of ours (a campaign of an earlier version) is given.
    """

    slowest_poll_seconds = 10.0
    live_seconds = 25.0

    def __init__(self, engine: Engine, locks: AdvisoryLocks, study_id: int, lease_seconds: float) -> None:
        self._engine = engine
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._locks, self._study_id = locks, study_id
        self._known = Known()
        self._version: int | None = None

        def steps(connection: Connection) -> None:
            for number, runs in adopt(connection, study_id, lease_seconds):
                connection.execute(sql.COMMIT, {"study": study_id, "number": number} | _stored_result(0, runs))

        self._transaction(steps)

    @property
    def version(self) -> int | None:
        """As of the last claim."""
        return self._version

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the study's lock, waiting for it."""
        with self._locks.hold("ledger"):
            yield

    def alone(self, role: str) -> AbstractContextManager[bool]:
        """Try to be the only one in a role."""
        return self._locks.hold(role, wait=False)

    def _once(self, statement: TextClause, **values: object) -> Sequence[Any]:
        """Execute one statement, a transaction of its own, and again if the connection turned out to be dead."""
        for is_last in (False, True):
            try:
                with self._single.connect() as connection:
                    return connection.execute(statement, {"study": self._study_id} | values).all()
            except DBAPIError as error:
                if is_last or not error.connection_invalidated:
                    raise
        raise AssertionError

    def _transaction(self, steps: Callable[[Connection], T]) -> T:
        """Execute steps as one transaction, and again if the connection turned out to be dead."""
        for is_last in (False, True):
            try:
                with self._engine.begin() as connection:
                    return steps(connection)
            except DBAPIError as error:
                if is_last or not error.connection_invalidated:
                    raise
        raise AssertionError

    def rows(self) -> list[Row]:
        """Read what is new: results of the trials that have ended since, and no trial twice."""
        known = self._known
        states = {
            number: (STATES[state], trial_id)
            for number, state, trial_id in self._once(sql.TRIALS, first=known.first_open)
        }
        new = [trial_id for number, (_, trial_id) in states.items() if number not in known.trials]
        ended = [
            trial_id
            for number, (state, trial_id) in states.items()
            if state in ("finished", "failed") and number not in known.ended
        ]
        attributes: dict[int, dict[str, Any]] = {trial_id: {} for _, trial_id in states.values()}
        if new or ended:
            for trial_id, key, value in self._once(sql.ATTRIBUTES, new=new, ended=ended):
                attributes[trial_id][key] = json.loads(value)
        before = [known.ended[number] for number in range(known.first_open)]
        return before + [known.row(number, state, attributes[trial_id]) for number, (state, trial_id) in states.items()]

    def append(self, number: int, frozen: FrozenTrial) -> bool:
        """Append a trial, its parameters, attributes and lease; nobody else numbers a trial of the study meanwhile."""
        names = sorted(frozen.params)
        values = {
            "number": number,
            "names": names,
            "values": [float(frozen.distributions[name].to_internal_repr(frozen.params[name])) for name in names],
            "distributions": [distribution_to_json(frozen.distributions[name]) for name in names],
            "keys": list(frozen.user_attrs),
            "contents": [json.dumps(value) for value in frozen.user_attrs.values()],
            "system_keys": list(frozen.system_attrs),
            "system": [json.dumps(value) for value in frozen.system_attrs.values()],
        }

        def steps(connection: Connection) -> bool:
            study = {"study": self._study_id}
            connection.execute(sql.STUDY_LOCK, study)
            if connection.execute(sql.NEXT, study).scalar_one() != number:
                return False
            connection.execute(sql.APPEND, study | values)
            return True

        return self._transaction(steps)

    def claim(self, owner: str, seconds: float) -> Taken | None:
        """Lease the first free trial."""
        self._look_at_neighbours()
        host, pid, process_started = this_process()
        while True:
            ((self._version, number, token, losses, trial),) = self._once(
                sql.CLAIM, seconds=seconds, owner=owner, host=host, pid=pid, process_started=process_started
            )
            if number is None:
                return None
            if losses < MAX_LOSSES:
                return Taken(Trial.model_validate_json(json.loads(trial)), token)
            self._give_up(number, token, f"its worker was lost {losses} times")

    def _look_at_neighbours(self) -> None:
        """Free the trials of this host's dead processes."""
        for number, token, pid, process_started in self._once(sql.NEIGHBOURS, host=this_host()):
            if is_dead(this_host(), pid, process_started):
                self._once(sql.LOST, number=number, token=token)

    def renew(self, number: int, token: int, seconds: float) -> bool:
        """Extend a lease."""
        return bool(self._once(sql.RENEW, number=number, token=token, seconds=seconds))

    def report(self, number: int, token: int, seconds: float, loss: float, tokens: int) -> bool:
        """Record a live value and extend the lease."""
        kind, value = _stored(loss)
        return bool(
            self._once(sql.REPORT, number=number, token=token, seconds=seconds, tokens=tokens, loss=value, type=kind)
        )

    def release(self, number: int, token: int) -> None:
        """Give a trial back."""
        self._once(sql.RELEASE, number=number, token=token)

    def commit(self, number: int, token: int, runs: Sequence[Run]) -> bool:
        """Store a result and tell it."""
        stored = self._once(sql.COMMIT, number=number, **_stored_result(token, runs))
        return bool(stored) or self._once(sql.BROUGHT, number=number) == [(token,)]

    def fail(self, number: int, token: int, message: str) -> bool:
        """Record an attempt that raised."""

        def steps(connection: Connection) -> bool:
            where = {"study": self._study_id, "number": number}
            trial_id, standing, holder = connection.execute(sql.LEASE_FOR_UPDATE, where).one()
            if standing != "held" or holder != token:
                return bool(standing != "done")
            trial = {"trial": trial_id}
            errors = [*json.loads(connection.execute(sql.ERRORS, trial).scalar() or "[]"), message]
            connection.execute(sql.SET_ERRORS, trial | {"errors": json.dumps(errors)})
            again = len(errors) < MAX_ATTEMPTS
            connection.execute(sql.FREE_AGAIN if again else sql.GIVE_UP, trial)
            return again

        return self._transaction(steps)

    def _give_up(self, number: int, token: int, message: str) -> None:
        def steps(connection: Connection) -> None:
            where = {"study": self._study_id, "number": number}
            trial_id, standing, holder = connection.execute(sql.LEASE_FOR_UPDATE, where).one()
            if standing == "held" and holder == token:
                trial = {"trial": trial_id}
                errors = [*json.loads(connection.execute(sql.ERRORS, trial).scalar() or "[]"), message]
                connection.execute(sql.SET_ERRORS, trial | {"errors": json.dumps(errors)})
                connection.execute(sql.GIVE_UP, trial)

        self._transaction(steps)

    def progress(self) -> dict[int, tuple[Lease | None, Live]]:
        """Return lease and latest live value of every running trial."""
        now = time.time()
        return {
            row.number: (
                Lease(
                    owner=row.owner,
                    token=row.token,
                    expires_at=now + float(row.seconds_left),
                    losses=row.losses,
                    preemptions=row.preemptions,
                    released=row.standing in ("preempted", "error"),
                    host=row.host,
                    pid=row.pid,
                    process_started=row.process_started,
                ),
                {} if row.step is None else {row.step: _loss(row.type, row.intermediate_value)},
            )
            for row in self._once(sql.PROGRESS)
        }

    def history(self, numbers: Iterable[int]) -> dict[int, History]:
        """Return times and curves."""
        wanted = sorted(numbers)
        curves: dict[int, Live] = {}
        for number, step, value, kind in self._once(sql.CURVES, numbers=wanted):
            curves.setdefault(number, {})[step] = _loss(kind, value)
        return {
            number: History(
                started=None if started is None else float(started),
                ended=None if ended is None else float(ended),
                curve=curves.get(number, {}),
            )
            for number, started, ended in self._once(sql.TIMES, numbers=wanted)
        }

    def interruptions(self) -> Interruptions:
        """Count them."""
        ((preempted, lost, error),) = self._once(sql.INTERRUPTIONS)
        return Interruptions(int(preempted), int(lost), int(error))

    def note(self, owner: str, state: Literal["idle", "ended"]) -> None:
        """Write a worker's row; those of workers that went a month ago are dropped."""
        host, pid, process_started = this_process()
        self._once(sql.NOTE, owner=owner, state=state, host=host, pid=pid, process_started=process_started)

    def notes(self) -> list[Note]:
        """Read them."""
        now = time.time()
        return [
            Note(
                owner=row.owner,
                state=row.state,
                seen=now - float(row.ago),
                host=row.host,
                pid=row.pid,
                process_started=row.process_started,
            )
            for row in self._once(sql.NOTES)
        ]


def _stored_result(token: int, runs: Sequence[Run]) -> dict[str, object]:
    """Return a result as the tables have it."""
    value = runs[-1].bpb
    return {
        "token": token,
        "runs": json.dumps([run.model_dump(mode="json") for run in runs]),
        "status": json.dumps(runs[-1].status),
        "state": "PRUNED" if value is None else "COMPLETE",
        "value": value,
    }


def _stored(loss: float) -> tuple[str, float | None]:
    """Return a value as Optuna's tables have it: what kind it is, and the number if it is one."""
    if math.isfinite(loss):
        return "FINITE", loss
    return ("NAN" if math.isnan(loss) else "INF_POS" if loss > 0 else "INF_NEG"), None


def _loss(kind: str, value: float | None) -> float:
    return {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}[kind] if value is None else value
