"""The ledger: the one truth about a campaign, kept in an Optuna study.

An Optuna trial is one row. Its flat parameters are for the dashboard; user attributes hold what counts:

========== ==================================================================================================
``trial``  the :class:`~moe_search.search.trial.Trial`, written with the row
``lease``  the :class:`~moe_search.search.lease.Lease` of whoever works on it
``errors`` messages of the attempts that raised an exception
``runs``   the result. Writing it is the commit: it happens once, before the trial is told, and whoever finds a
           result untold (its writer was killed in between) tells it
========== ==================================================================================================

States: WAITING (proposed), RUNNING (leased, or waiting to be resumed by whoever comes first), COMPLETE (a result with a
value: bits per byte of the trial's own horizon), PRUNED (a result without one: diverged, out of memory), FAIL (every
attempt raised). ``study.best_trial`` compares trials of different scales and is of no use here.

Everything that reads before it writes happens under one lock that dies with its process
(:mod:`~moe_search.search.exclusive`), so no crash can leave half a decision; and a row is written in one journal line
or one transaction. A trial keeps its number for ever: it is resumed, never copied, unlike in Optuna's retry
callbacks. Late results are recognised by the lease's fencing token: the first result wins, whoever brings it; a
second one is refused.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from moe_search.search import parameters
from moe_search.search.lease import Lease, new_lease
from moe_search.search.problem import Problem
from moe_search.search.storage import open_storage
from moe_search.search.trial import Proposal, Row, RowState, Trial
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.run import Run

LOGGER = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
"""A trial that raises is tried again twice. Being killed is not an attempt."""
MAX_LOSSES = 25
"""A trial whose worker was lost so often is what kills it (the kernel's out-of-memory killer, say): it has failed."""


class Claim(Frozen):
    """The right to run a trial, with the fencing token that its result must carry."""

    trial: Trial
    owner: str
    token: int


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
        ResourceError: the storage cannot be read or written.
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
        self._storage, self._locks = open_storage(storage, scope=name)
        self._known: dict[int, Row] = {}
        with self.exclusive():
            self._study_id = self._open_study(storage, problem, spec)
        header = self._storage.get_study_user_attrs(self._study_id)
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
        existing = {study.study_name: study for study in self._storage.get_all_studies()}
        header = existing[self.name].user_attrs if self.name in existing else {}
        if "spec" not in header and problem is None:
            raise InvalidInputError(
                f"there is no campaign {self.name!r} in {_shown(storage)}",
                where="storage",
                allowed=", ".join(sorted(existing)) or "none yet",
                fix="moe-search run creates it",
            )
        if problem is None:
            return existing[self.name]._study_id
        wanted = problem.model_dump(mode="json") if spec is None else json.loads(json.dumps(spec))
        if self.name in existing:
            study_id = existing[self.name]._study_id
        else:
            study_id = self._storage.create_new_study([StudyDirection.MINIMIZE], self.name)
            self._storage.set_study_system_attr(study_id, "study:metric_names", ["bits per byte"])
        if "spec" in header:
            _require_equal(header["spec"], wanted, self.name)
        else:  # new, or its creator was killed before this point; ``spec`` comes last and so vouches for the rest
            self._storage.set_study_user_attr(study_id, "problem", problem.model_dump_json())
            self._storage.set_study_user_attr(study_id, "spec", wanted)
        return study_id

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for Optuna's own plots and dashboards."""
        return optuna.load_study(study_name=self.name, storage=self._storage)

    @property
    def spec(self) -> dict[str, Any]:
        """The specification that the study was created with."""
        spec: dict[str, Any] = self._storage.get_study_user_attrs(self._study_id)["spec"]
        return spec

    def identity(self) -> str:
        """Return what names this campaign beyond its storage, wherever that is moved to: drawn once, kept with it."""
        with self.exclusive():
            known = self._storage.get_study_user_attrs(self._study_id)
            if "identity" not in known:
                self._storage.set_study_user_attr(self._study_id, "identity", uuid.uuid4().hex)
        return str(self._storage.get_study_user_attrs(self._study_id)["identity"])

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the ledger's lock: nobody else reads before writing meanwhile. Not re-entrant; keep it short."""
        with storage_errors(), self._locks.hold("ledger"):
            yield

    @contextmanager
    def proposing(self) -> Iterator[bool]:
        """Try to become the one who works out the next proposal; the value says whether that succeeded."""
        with storage_errors(), self._locks.hold("proposer", wait=False) as obtained:
            yield obtained

    @contextmanager
    def projecting(self) -> Iterator[bool]:
        """Try to become the one who writes the table out for people to see; the value says whether that succeeded."""
        with storage_errors(), self._locks.hold("projection", wait=False) as obtained:
            yield obtained

    def rows(self) -> list[Row]:
        """Return the trial table, by number. A trial with a result is finished, told or not."""
        return [self._row(frozen) for frozen in self._frozen_trials()]

    def progress(self) -> dict[int, tuple[Lease | None, dict[int, float]]]:
        """Return lease and reported losses (training tokens to nats a token) of every trial that is running."""
        return {
            frozen.number: (_lease(frozen), dict(frozen.intermediate_values))
            for frozen in self._frozen_trials()
            if frozen.state == TrialState.RUNNING and "runs" not in frozen.user_attrs
        }

    def _frozen_trials(self) -> list[FrozenTrial]:
        with storage_errors():
            return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _row(self, frozen: FrozenTrial) -> Row:
        if frozen.number in self._known:
            return self._known[frozen.number]
        attributes = frozen.user_attrs
        if "runs" in attributes:
            state: RowState = "finished"
        elif frozen.state == TrialState.FAIL:
            state = "failed"
        else:
            state = "waiting" if frozen.state == TrialState.WAITING else "running"
        row = Row(
            trial=Trial.model_validate_json(attributes["trial"]),
            state=state,
            runs=tuple(Run.model_validate(run) for run in attributes.get("runs", ())),
            message=attributes["errors"][-1] if state == "failed" else "",
        )
        if not row.is_open:  # results never change, and parsing them is most of the work of reading
            self._known[frozen.number] = row
        return row

    def append(self, proposal: Proposal, *, number: int) -> bool:
        """Append ``proposal`` as trial ``number``, waiting to be claimed.

        Returns:
            False if the table has grown meanwhile, so that ``number`` is taken and nothing was written.
        """
        with self.exclusive():
            if len(self._frozen_trials()) != number:
                return False
            trial = self.problem.trial(number, proposal)
            flat = parameters.values(proposal, self.problem)
            self._storage.create_new_trial(
                self._study_id,
                create_trial(
                    state=TrialState.WAITING,
                    params=flat,
                    distributions=self._distributions,
                    user_attrs={"trial": trial.model_dump_json(), "reason": trial.reason},
                    system_attrs={"fixed_params": flat},
                ),
            )
        return True

    def claim(self, owner: str) -> Claim | None:
        """Take the first trial that nobody works on: one to resume, or one that waits.

        Results that were committed but not told are told on the way.
        """
        with self.exclusive():
            for frozen in self._frozen_trials():
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
                if frozen.state == TrialState.WAITING:
                    self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING)
                self._set(frozen, "lease", new_lease(owner, token, self.lease_seconds, losses=losses).model_dump())
                return Claim(trial=self._row(frozen).trial, owner=owner, token=token)
        return None

    def refresh(self, claim: Claim) -> bool:
        """Extend the lease; False if it was lost, or the trial is done."""
        with self.exclusive():
            frozen = self._frozen(claim)
            lease = _lease(frozen)
            if lease is None or not _holds(frozen, claim):
                return False
            self._set(frozen, "lease", lease.replace(expires_at=time.time() + self.lease_seconds).model_dump())
        return True

    def release(self, claim: Claim) -> None:
        """Give the trial back unfinished: anybody may resume it at once, as the same trial."""
        with self.exclusive():
            frozen = self._frozen(claim)
            if _holds(frozen, claim):
                self._release(frozen)

    def report(self, claim: Claim, loss: float, tokens: int) -> None:
        """Record a live value: the loss (nats a token) after ``tokens`` training tokens."""
        with storage_errors():
            frozen = self._frozen(claim)
            if not frozen.state.is_finished():
                self._storage.set_trial_intermediate_value(frozen._trial_id, tokens, loss)

    def commit(self, claim: Claim, runs: Sequence[Run]) -> bool:
        """Store the result of a trial and tell it.

        A result under an old token (its worker was believed dead) is as good as any if it is the first.

        Returns:
            False if the trial has a result or has failed already: this one is refused.
        """
        if not runs:
            raise ValueError("runs: a trial yields at least one")
        with self.exclusive():
            frozen = self._frozen(claim)
            if frozen.state.is_finished() or "runs" in frozen.user_attrs:
                LOGGER.warning("trial %d has a result already; a second one is refused", claim.trial.number)
                return False
            self._set(frozen, "runs", [run.model_dump(mode="json") for run in runs])
            self._tell(frozen, runs)
        return True

    def fail(self, claim: Claim, message: str) -> bool:
        """Record that an attempt raised an exception.

        Returns:
            Whether the trial will be tried again.
        """
        with self.exclusive():
            frozen = self._frozen(claim)
            if not _holds(frozen, claim):
                return True
            errors = [*frozen.user_attrs.get("errors", ()), message]
            if len(errors) >= MAX_ATTEMPTS:
                self._give_up(frozen, message)
                return False
            self._set(frozen, "errors", errors)
            self._release(frozen)
        return True

    def _frozen(self, claim: Claim) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, claim.trial.number)
        return self._storage.get_trial(trial_id)

    def _set(self, frozen: FrozenTrial, key: str, value: object) -> None:
        self._storage.set_trial_user_attr(frozen._trial_id, key, value)

    def _release(self, frozen: FrozenTrial) -> None:
        lease = _lease(frozen)
        if lease is not None:
            self._set(frozen, "lease", lease.replace(released=True).model_dump())

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


def _holds(frozen: FrozenTrial, claim: Claim) -> bool:
    lease = _lease(frozen)
    open_for_results = not frozen.state.is_finished() and "runs" not in frozen.user_attrs
    return open_for_results and lease is not None and lease.token == claim.token and not lease.released


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy raise when the disk is full or the database away into one sentence."""
    try:
        yield
    except StorageInternalError as error:
        raise ResourceError(f"the ledger's storage does not answer: {error.__cause__ or error}") from error
    except sqlalchemy.exc.DBAPIError as error:
        raise ResourceError(f"the ledger's storage does not answer: {error.orig}") from error
    except OSError as error:
        raise ResourceError(f"the ledger's storage: {error.strerror or error}") from error


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


def _shown(storage: str | Path) -> str:
    return (
        sqlalchemy.make_url(str(storage)).render_as_string(hide_password=True)
        if "://" in str(storage)
        else str(storage)
    )
