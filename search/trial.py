"""Proposals, trials and the rows of the ledger: the values that search passes around.

A trial is one (design, scale, seed). It trains one trunk and yields one :class:`~moe_search.spaces.run.Run` for every
ladder horizon up to its own; the last of them is the trial's own observation.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from moe_search.search.standing import Standing
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.run import Run

Report = Callable[[float, int], None]
"""``report(loss, tokens)``: a live value of a running trial, nats a token after so many training tokens."""


class Proposal(Frozen):
    """What to try next, and why."""

    design: Design
    scale: Scale
    seed: int
    reason: str
    """One sentence for a human."""
    predicted_cost: float = Field(gt=0)
    """Training FLOPs: the trunk and one decay branch for every shorter horizon."""
    predicted_mean: float | None = None
    """Expected bits per byte of the trial's own run (the median of a log-normal); None before there is a surrogate."""
    predicted_sd: float | None = None
    """Standard deviation of that expectation, bits per byte, observation noise included."""
    predicted_seconds: float | None = None
    """Device-seconds of its training steps, by the trials measured so far and the table of the machine that began the
    campaign; None where there is neither."""
    standing: Standing | None = None
    """How the decision stood when this was proposed; None before there is a surrogate."""


class Trial(Proposal):
    """A proposal that has entered the ledger."""

    number: int = Field(ge=0)
    """Place in the trial table; equal to Optuna's trial number."""
    horizons: tuple[int, ...]
    """Training tokens of every run that the trial yields, ascending; the last is ``scale.tokens``."""
    run_key: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Names the checkpoint folder: the hash of design, scale, seed and context."""

    @property
    def proposal(self) -> Proposal:
        """The trial without its place in the ledger."""
        return Proposal.model_validate({name: getattr(self, name) for name in Proposal.model_fields})


class Claim(Frozen):
    """The right to run a trial, with the fencing token that its result must carry."""

    trial: Trial
    owner: str
    token: int


Evaluate = Callable[[Trial, Report], list[Run]]
"""Trains a trial (or looks it up, or simulates it) and returns its runs, shortest horizon first."""

RowState = Literal["waiting", "running", "finished", "failed"]


class Row(Frozen):
    """One line of the trial table.

    ``finished`` means that there is a result, be it a diverged one; ``failed`` that our code raised an exception each
    time it was tried. A trial whose worker was killed is neither: it stays ``running`` until somebody resumes it.
    """

    trial: Trial
    state: RowState
    runs: tuple[Run, ...] = ()
    message: str = ""
    """Why a failed trial failed."""

    @property
    def is_open(self) -> bool:
        """Whether a result is still to come."""
        return self.state in ("waiting", "running")

    @property
    def settled_flops(self) -> float:
        """Training FLOPs that the trial has cost: what its runs paid, or all that was reserved if it failed."""
        if self.is_open:
            return 0.0
        return sum(run.paid_flops for run in self.runs) if self.runs else self.trial.predicted_cost
