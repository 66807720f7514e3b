"""The budget, derived from the trial table.

There is no second book that a crash could make disagree with the trials: a trial reserves its predicted cost while it
is open, and settles what it cost when it is done.
"""

from collections.abc import Iterable, Sequence

from moe_search.search.problem import Problem
from moe_search.search.trial import Row
from moe_search.spaces.design import Design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class Budget(Frozen):
    """Training FLOPs: allowed, spent, promised."""

    total: float
    settled: float
    """Cost of finished and failed trials."""
    reserved: float
    """Predicted cost of waiting and running trials."""

    @property
    def remaining(self) -> float:
        """What may still be proposed."""
        return self.total - self.settled - self.reserved


def budget_of(total: float, settled: Iterable[Row], reserved: Iterable[Row] = ()) -> Budget:
    """Return the budget as it stands.

    Args:
        total: training FLOPs allowed.
        settled: rows counted at what they cost, if they are done.
        reserved: rows counted at their predicted cost although they may be done (a proposal's pending rows).
    """
    settled, reserved = list(settled), list(reserved)
    done = [row for row in settled if not row.is_open]
    pending = [row for row in settled if row.is_open] + reserved
    return Budget(
        total=total,
        settled=sum(row.settled_flops for row in done),
        reserved=sum(row.trial.predicted_cost for row in pending),
    )


def require_one_proxy(problem: Problem, designs: Sequence[Design]) -> None:
    """Refuse a budget that does not pay for the cheapest trial of any of ``designs``.

    Raises:
        InvalidInputError: naming the budget that would do.
    """
    cheapest = min(problem.cost(design, scale) for design in designs for scale in problem.ladder.scales())
    if cheapest > problem.budget_flops:
        raise InvalidInputError(
            f"{problem.budget_flops:.3g} training FLOPs do not pay for one proxy",
            where="budget",
            allowed=f"at least {cheapest:.3g} FLOPs, the cost of the cheapest",
            fix=f"{cheapest * 1.01:.2e} FLOPs, or a smaller size or token horizon in the ladder",
        )
