"""How a campaign stands, with what a person watching it asks for beyond the ledger's own summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_search.search.ledger import Ledger
from moe_search.search.standing import Ending
from moe_search.search.status import Running, Status, summarise
from moe_search.search.trial import Row, Trial


@dataclass(frozen=True)
class Overview:
    """A campaign at one moment."""

    status: Status
    trials: Mapping[int, Trial]

    @property
    def ended(self) -> int:
        """Trials that have a result or have failed for good."""
        return sum(count for state, count in self.status.trials.items() if state not in {"waiting", "running"})

    @property
    def done_flops(self) -> float:
        """Training FLOPs spent, those of running trials included."""
        live = sum(share(running) * self.trials[running.trial].predicted_cost for running in self.status.running)
        return self.status.budget.settled + live

    @property
    def left_flops(self) -> float:
        """Training FLOPs still to spend."""
        return max(self.status.budget.total - self.done_flops, 0.0)

    @property
    def share(self) -> float:
        """Part of the budget that is spent."""
        return min(self.done_flops / self.status.budget.total, 1.0)

    def as_json(self) -> dict[str, Any]:
        """Return what ``moe-search status --json`` prints."""
        budget = self.status.budget
        return {
            **self.status.model_dump(mode="json"),
            "budget": {**budget.model_dump(), "remaining": budget.remaining, "spent_share": self.share},
        }


def share(running: Running) -> float:
    """Return the part of a running trial's horizon that is done."""
    return min(running.tokens / running.scale.tokens, 1.0)


def overview(
    ledger: Ledger, rows: Sequence[Row], ended: Ending | None = None, *, is_thorough: bool = False
) -> Overview:
    """Return how a campaign stands.

    Args:
        ledger: the campaign.
        rows: just read from it.
        ended: why the search is over, if that is known.
        is_thorough: ask for workers and failures too, which whoever looks twice a second does without.
    """
    status = summarise(
        ledger.problem.budget_flops,
        rows,
        ledger.progress(),
        ended,
        workers=ledger.workers() if is_thorough else (),
        failures=ledger.failures() if is_thorough else {},
        lease_seconds=ledger.lease_seconds,
    )
    return Overview(status=status, trials={row.trial.number: row.trial for row in rows})
