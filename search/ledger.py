"""The ledger: the one truth about a campaign, kept in an Optuna study.

States of a trial: WAITING (proposed), RUNNING (leased, or waiting to be resumed by whoever comes first), COMPLETE (a
result with a value: bits per byte of the trial's own horizon), PRUNED (a result without one: diverged, out of memory),
FAIL (every attempt raised). ``study.best_trial`` compares trials of different scales and is of no use here.

A trial keeps its number for ever: it is resumed, never copied, unlike in Optuna's retry callbacks. Late results are
recognised by the lease's fencing token: the first result wins, whoever brings it; a second one is refused. A result is
stored before its trial is told, or with it, and storing it twice changes nothing.

The budget has no book of its own: appending a trial reserves its cost and its result settles it, each in one step of
the :mod:`~moe_search.search.table`, so that no crash can leave half a decision.

There is one proposer at a time: whoever holds the lock of that name (:meth:`Ledger.proposing`). It is a lock and not a
lease because it dies with its holder, and a proposer that was cut off can do no harm: a proposal is a function of the
table, and a number is given once.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from pydantic import ValidationError

from moe_search.search import parameters
from moe_search.search.lease import Lease
from moe_search.search.presence import Presence, presences
from moe_search.search.problem import Problem
from moe_search.search.redacting import redacted
from moe_search.search.storage import open_storage, storage_errors
from moe_search.search.table import MAX_ATTEMPTS, MAX_LOSSES, History
from moe_search.search.trial import Claim, Proposal, Row
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.run import Run

__all__ = ["MAX_ATTEMPTS", "MAX_LOSSES", "Claim", "Ledger"]


class Ledger:
    """A campaign's trial table, shared by any number of processes.

    Args:
        storage: path of a journal file, or an RDB URL (:mod:`moe_search.search.storage`).
        name: of the study.
        problem: creates the study where there is none; None: it must exist.
        spec: what a second ``Ledger`` on the study must agree with (JSON); None: the problem itself.
        lease_seconds: how long a silent worker is believed to be alive. A dead process on the same machine is noticed
            at once.

    Raises:
        InvalidInputError: the study belongs to another specification, or there is none and no problem was given.
        StorageAwayError: the storage does not answer. So do all methods.
        ResourceError: the storage cannot be read or written. So do all methods.
    """

    def __init__(
        self,
        storage: str | Path,
        *,
        name: str = "moe-search",
        problem: Problem | None = None,
        spec: Mapping[str, Any] | None = None,
        lease_seconds: float = 120.0,
    ) -> None:
        self.name = name
        self.lease_seconds = lease_seconds
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage, self._locks, open_table = open_storage(storage, scope=name)
        with storage_errors():
            self._study_id = self._open_study(storage, problem, spec)
            header = self._storage.get_study_user_attrs(self._study_id)
            self._table = open_table(self._study_id, lease_seconds)
        try:
            self.problem = Problem.model_validate_json(header["problem"])
        except ValidationError as error:
            raise InvalidInputError(
                f"the campaign {name!r} was started by a version that describes its problem in another way "
                f"({error.error_count()} fields differ)",
                where="storage",
                fix="finish it with that version, or start a new campaign",
            ) from error
        self._distributions = parameters.distributions(self.problem)

    def _open_study(self, storage: str | Path, problem: Problem | None, spec: Mapping[str, Any] | None) -> int:
        if problem is not None:
            with self._locks.hold("ledger"):
                return self._create_study(problem, spec)
        existing = {study.study_name: study for study in self._storage.get_all_studies()}
        if self.name not in existing or "spec" not in existing[self.name].user_attrs:
            raise InvalidInputError(
                f"there is no campaign {self.name!r} in {redacted(str(storage))}",
                where="storage",
                allowed=", ".join(sorted(existing)) or "none yet",
                fix="moe-search run creates it",
            )
        return existing[self.name]._study_id

    def _create_study(self, problem: Problem, spec: Mapping[str, Any] | None) -> int:
        existing = {study.study_name: study for study in self._storage.get_all_studies()}
        wanted = problem.model_dump(mode="json") if spec is None else json.loads(json.dumps(spec))
        if self.name in existing:
            study_id, header = existing[self.name]._study_id, existing[self.name].user_attrs
        else:
            study_id, header = self._storage.create_new_study([StudyDirection.MINIMIZE], self.name), {}
            self._storage.set_study_system_attr(study_id, "study:metric_names", ["bits per byte"])
        if "spec" in header:
            _require_equal(header["spec"], wanted, self.name)
        else:  # new, or its creator was killed before this point; ``spec`` comes last and so vouches for the rest
            self._storage.set_study_user_attr(study_id, "problem", problem.model_dump_json())
            self._storage.set_study_user_attr(study_id, "spec", wanted)
        return study_id

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for Optuna's own plots and dashboards; reading its trials reads the whole table."""
        return optuna.load_study(study_name=self.name, storage=self._storage)

    @property
    def spec(self) -> dict[str, Any]:
        """The specification that the study was created with."""
        with storage_errors():
            spec: dict[str, Any] = self._storage.get_study_user_attrs(self._study_id)["spec"]
        return spec

    def identity(self) -> str:
        """Return what names this campaign beyond its storage, wherever that is moved to: drawn once, kept with it."""
        with storage_errors(), self._locks.hold("ledger"):
            known = self._storage.get_study_user_attrs(self._study_id)
            if "identity" not in known:
                self._storage.set_study_user_attr(self._study_id, "identity", uuid.uuid4().hex)
        with storage_errors():
            return str(self._storage.get_study_user_attrs(self._study_id)["identity"])

    @contextmanager
    def proposing(self) -> Iterator[bool]:
        """Try to become the one who works out the next proposal; the value says whether that succeeded."""
        with storage_errors(), self._table.alone("proposer") as obtained:
            yield obtained

    @contextmanager
    def projecting(self) -> Iterator[bool]:
        """Try to become the one who writes the table out for people to see; the value says whether that succeeded."""
        with storage_errors(), self._table.alone("projection") as obtained:
            yield obtained

    @property
    def version(self) -> int | None:
        """A number that grows with every trial and every result, as the last :meth:`claim` saw it; None: not kept."""
        return self._table.version

    @property
    def slowest_poll_seconds(self) -> float:
        """How rarely an idle worker may ask for a trial."""
        return self._table.slowest_poll_seconds

    @property
    def live_seconds(self) -> float:
        """Least time between two live values of a trial."""
        return self._table.live_seconds

    def rows(self) -> list[Row]:
        """Return the trial table, by number. A trial with a result is finished, told or not."""
        with storage_errors():
            return self._table.rows()

    def progress(self) -> dict[int, tuple[Lease | None, dict[int, float]]]:
        """Return lease and latest reported loss (training tokens to nats a token) of every trial that is running."""
        with storage_errors():
            return self._table.progress()

    def history(self, numbers: Iterable[int]) -> dict[int, History]:
        """Return when trials ran, and all their reported losses."""
        with storage_errors():
            return self._table.history(numbers)

    def failures(self) -> dict[str, int]:
        """Return what went wrong so far, by class.

        ``preempted`` (holders that gave a trial back on purpose), ``lost`` (holders that were killed or fell silent)
        and ``error`` (attempts that raised) are events, of which a trial may have several; ``oom`` and ``diverged`` are
        results, one a trial. Only errors use up a trial's attempts.
        """
        with storage_errors():
            results = Counter(row.runs[-1].status for row in self._table.rows() if row.runs)
            return {**self._table.interruptions()._asdict(), "oom": results["oom"], "diverged": results["diverged"]}

    def workers(self) -> list[Presence]:
        """Return every worker that has shown itself, by name."""
        with storage_errors():
            leases = ((number, lease) for number, (lease, _) in self._table.progress().items() if lease is not None)
            return presences(self._table.notes(), leases, lease_seconds=self.lease_seconds)

    def attend(self, owner: str, state: Literal["idle", "ended"]) -> None:
        """Let a worker say that it is there, or that it ends; while it works its lease says so."""
        with storage_errors():
            self._table.note(owner, state)

    def append(self, proposal: Proposal, *, number: int) -> bool:
        """Append ``proposal`` as trial ``number``, waiting to be claimed.

        Returns:
            False if the table has grown meanwhile, so that ``number`` is taken and nothing was written.
        """
        trial = self.problem.trial(number, proposal)
        flat = parameters.values(proposal, self.problem)
        frozen = create_trial(
            state=TrialState.WAITING,
            params=flat,
            distributions=self._distributions,
            user_attrs={"trial": trial.model_dump_json(), "reason": trial.reason},
            system_attrs={"fixed_params": flat},
        )
        with storage_errors():
            return self._table.append(number, frozen)

    def claim(self, owner: str) -> Claim | None:
        """Take the first trial that nobody works on: one to resume, or one that waits."""
        with storage_errors():
            taken = self._table.claim(owner, self.lease_seconds)
        return None if taken is None else Claim(trial=taken.trial, owner=owner, token=taken.token)

    def refresh(self, claim: Claim) -> bool:
        """Extend the lease; False if it was lost, or the trial is done."""
        with storage_errors():
            return self._table.renew(claim.trial.number, claim.token, self.lease_seconds)

    def report(self, claim: Claim, loss: float, tokens: int) -> bool:
        """Record a live value, the loss (nats a token) after ``tokens`` training tokens, and extend the lease.

        Returns:
            False if the lease was lost, or the trial is done.
        """
        with storage_errors():
            return self._table.report(claim.trial.number, claim.token, self.lease_seconds, loss, tokens)

    def release(self, claim: Claim) -> None:
        """Give the trial back unfinished (preempted): anybody may resume it at once, as the same trial."""
        with storage_errors():
            self._table.release(claim.trial.number, claim.token)

    def commit(self, claim: Claim, runs: Sequence[Run]) -> bool:
        """Store the result of a trial and tell it.

        A result under an old token (its worker was believed dead) is as good as any if it is the first.

        Returns:
            False if the trial has another result or has failed already: this one is refused. True also if this very
            claim has brought its result before.
        """
        if not runs:
            raise ValueError("runs: a trial yields at least one")
        with storage_errors():
            return self._table.commit(claim.trial.number, claim.token, runs)

    def fail(self, claim: Claim, message: str) -> bool:
        """Record that an attempt raised an exception.

        Returns:
            Whether the trial will be tried again.
        """
        with storage_errors():
            return self._table.fail(claim.trial.number, claim.token, message)

    def has(self, claim: Claim) -> bool:
        """Say whether a claim is one of this campaign's, and not of another one that lived in the same folder."""
        rows = self.rows()
        number = claim.trial.number
        return number < len(rows) and rows[number].trial.run_key == claim.trial.run_key


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _require_equal(stored: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    before, now = dict(_flat(stored)), dict(_flat(wanted))
    absent = "(absent)"
    differing = [
        f"{key}: {before.get(key, absent)} there, {now.get(key, absent)} here"
        for key in sorted({*before, *now})
        if before.get(key, absent) != now.get(key, absent)
    ]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise InvalidInputError(
            f"the campaign {name!r} was started with another specification ({'; '.join(differing[:5])}{more})",
            where=differing[0].partition(":")[0],
            fix="restore those values, or give the new campaign a name or folder of its own",
        )
