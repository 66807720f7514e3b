"""The trial table as the ledger needs it, whatever keeps it.

Two keep one: :class:`~moe_search.search.optuna_table.OptunaTable`, any Optuna storage of one machine under one lock,
and :class:`~moe_search.search.postgresql_table.PostgreSQLTable`, where every step is one transaction of the database.
Both write Optuna's own tables, so that its dashboard and plots show the campaign.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from optuna.trial import FrozenTrial

from moe_search.search.lease import Lease
from moe_search.search.presence import Note
from moe_search.search.trial import Row, RowState, Trial
from moe_search.spaces.run import Run

MAX_ATTEMPTS = 3
"""A trial that raises is tried again twice. Being preempted or killed is not an attempt."""
MAX_LOSSES = 25
"""A trial whose worker was lost so often is what kills it (the kernel's out-of-memory killer, say): it has failed."""

Live = dict[int, float]
"""Training tokens to nats a token."""


class Taken(NamedTuple):
    """A trial that was just claimed."""

    trial: Trial
    token: int


class History(NamedTuple):
    """When a trial ran, in seconds since the epoch, and its training curve."""

    started: float | None
    ended: float | None
    curve: Live


class Interruptions(NamedTuple):
    """How often holders of trials came to a bad end."""

    preempted: int
    """Gave the trial back on purpose."""
    lost: int
    """Were killed, or fell silent."""
    error: int
    """Raised an exception."""


class Table(Protocol):
    """A study's trials, their leases and the notes of its workers.

    Every method is safe to repeat when its answer was lost on the way.
    """

    slowest_poll_seconds: float
    """How rarely an idle worker may ask for a trial: a question to a file is free, one to a shared server is not."""
    live_seconds: float
    """Least time between two live values of a trial, for the same reason; where that is less than the heartbeat, they
    renew the lease, and nothing else has to."""

    @property
    def version(self) -> int | None:
        """A number that grows with every trial and every result, as of the last claim; None where none is kept."""
        ...

    def rows(self) -> list[Row]:
        """Return the trial table, by number."""
        ...

    def append(self, number: int, frozen: FrozenTrial) -> bool:
        """Append ``frozen`` as trial ``number``; False if the table has grown meanwhile."""
        ...

    def claim(self, owner: str, seconds: float) -> Taken | None:
        """Lease the first trial that nobody works on."""
        ...

    def renew(self, number: int, token: int, seconds: float) -> bool:
        """Extend a lease; False if it was lost, or the trial is done."""
        ...

    def report(self, number: int, token: int, seconds: float, loss: float, tokens: int) -> bool:
        """Record a live value, and extend the lease if that is due; False as :meth:`renew`."""
        ...

    def release(self, number: int, token: int) -> None:
        """Give a trial back, if ``token`` still holds it."""
        ...

    def commit(self, number: int, token: int, runs: Sequence[Run]) -> bool:
        """Store a result and tell it; False if there is one already that another token brought."""
        ...

    def fail(self, number: int, token: int, message: str) -> bool:
        """Record an attempt that raised; whether the trial is tried again."""
        ...

    def progress(self) -> dict[int, tuple[Lease | None, Live]]:
        """Return lease and latest live value of every running trial."""
        ...

    def history(self, numbers: Iterable[int]) -> dict[int, History]:
        """Return times and curves of some trials."""
        ...

    def interruptions(self) -> Interruptions:
        """Count them."""
        ...

    def note(self, owner: str, state: Literal["idle", "ended"]) -> None:
        """Let a worker say that it is there, or that it ends."""
        ...

    def notes(self) -> list[Note]:
        """Return every worker's latest."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the study's lock, waiting for it."""
        ...

    def alone(self, role: str) -> AbstractContextManager[bool]:
        """Try to be the only one in a role; the lock dies with its holder."""
        ...


@dataclass
class Known:
    """What has been read of a table and never changes: parsing it is most of the work of reading."""

    trials: dict[int, Trial] = field(default_factory=dict)
    ended: dict[int, Row] = field(default_factory=dict)
    first_open: int = 0
    """All trials below this number have ended."""

    def row(self, number: int, state: RowState, attributes: Mapping[str, Any]) -> Row:
        """Return a row from its state and, as far as they are not known, its attributes."""
        if number in self.ended:
            return self.ended[number]
        if number not in self.trials:
            self.trials[number] = Trial.model_validate_json(attributes["trial"])
        row = Row(
            trial=self.trials[number],
            state=state,
            runs=tuple(Run.model_validate(run) for run in attributes.get("runs", ())),
            message=attributes["errors"][-1] if state == "failed" else "",
        )
        if not row.is_open:
            self.ended[number] = row
            while self.first_open in self.ended:
                self.first_open += 1
        return row
