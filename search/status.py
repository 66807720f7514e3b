"""What a campaign looks like now: a pure summary of its ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from moe_search.search.budget import Budget, budget_of
from moe_search.search.lease import Lease
from moe_search.search.ledger import Ledger
from moe_search.search.presence import Presence
from moe_search.search.standing import Ending, Standing
from moe_search.search.suggest import ending
from moe_search.search.trial import Row
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen


class Best(Frozen):
    """The run with the least bits per byte at the largest scale that has been reached."""

    trial: int
    design: Design
    scale: Scale
    bpb: float


class Running(Frozen):
    """A trial in progress."""

    trial: int
    scale: Scale
    owner: str
    attempt: int = 0
    """The lease's fencing token: 1 for the trial's first holder, one more for each later one."""
    renewed: float | None = None
    """When the lease was last renewed, in seconds since the epoch; None: there is none."""
    is_held: bool
    """False: its worker is gone and the trial waits to be resumed."""
    tokens: int
    """Training tokens so far, of ``scale.tokens``."""
    loss: float | None
    """Latest reported loss, nats a token."""


class Status(Frozen):
    """Trials by state, budget, current best, what is running."""

    trials: dict[str, int]
    """``waiting``, ``running``, ``failed``, and those with a result by the status of their last run."""
    budget: Budget
    best: Best | None
    running: tuple[Running, ...]
    standing: Standing | None = None
    """How the decision stood when the latest trial was proposed."""
    ending: Ending | None = None
    """Why the search is over; None while it goes on."""
    workers: tuple[Presence, ...] = ()
    """Every worker that has shown itself, where they were asked for."""
    failures: dict[str, int] = Field(default_factory=dict)
    """What went wrong, by class (:meth:`~moe_search.search.ledger.Ledger.failures`), where it was asked for."""


def status_of(ledger: Ledger) -> Status:
    """Read the ledger and summarise it, with workers and failures, and why the search is over (a second's work)."""
    rows = ledger.rows()
    return summarise(
        ledger.problem.budget_flops,
        rows,
        ledger.progress(),
        ending(ledger.problem, rows),
        workers=ledger.workers(),
        failures=ledger.failures(),
        lease_seconds=ledger.lease_seconds,
    )


def summarise(
    budget_flops: float,
    rows: Sequence[Row],
    progress: Mapping[int, tuple[Lease | None, Mapping[int, float]]],
    ended: Ending | None = None,
    *,
    workers: Sequence[Presence] = (),
    failures: Mapping[str, int] | None = None,
    lease_seconds: float = 120.0,
) -> Status:
    """Return the status of a trial table.

    Args:
        budget_flops: training FLOPs allowed.
        rows: the table.
        progress: lease and reported losses by tokens of the trials that are running.
        ended: why the search is over, where that was asked.
        workers: who has shown itself.
        failures: what went wrong, by class.
        lease_seconds: how long before its end a lease was renewed.
    """
    counted = Counter(row.runs[-1].status if row.state == "finished" else row.state for row in rows)
    running = []
    for row in rows:
        if row.state != "running":
            continue
        lease, losses = progress.get(row.trial.number, (None, {}))
        tokens = max(losses, default=0)
        running.append(
            Running(
                trial=row.trial.number,
                scale=row.trial.scale,
                owner=lease.owner if lease else "",
                attempt=lease.token if lease else 0,
                renewed=lease.expires_at - lease_seconds if lease else None,
                is_held=lease is not None and lease.is_held(),
                tokens=tokens,
                loss=losses.get(tokens),
            )
        )
    return Status(
        trials=dict(sorted(counted.items())),
        budget=budget_of(budget_flops, rows),
        best=_best(rows),
        running=tuple(running),
        standing=(ended and ended.standing) or (rows[-1].trial.standing if rows else None),
        ending=ended,
        workers=tuple(workers),
        failures=dict(failures or {}),
    )


def _best(rows: Sequence[Row]) -> Best | None:
    found = [
        Best(trial=row.trial.number, design=row.trial.design, scale=row.trial.scale, bpb=row.runs[-1].bpb)
        for row in rows
        if row.runs and row.runs[-1].bpb is not None
    ]
    return min(found, key=lambda best: (-best.scale.n_active * best.scale.tokens, best.bpb), default=None)
