"""How far the decision has got: what it may still cost, and what the rest of the budget could change about it."""

from typing import Literal

from pydantic import Field

from moe_search.spaces.frozen import Frozen

NEGLIGIBLE = 0.01
"""Share of the seed noise below which a gain changes nothing."""

Reason = Literal["settled", "unchangeable"]


class Standing(Frozen):
    """The decision as the finished runs leave it; all in bits per byte at the target."""

    regret: float = Field(ge=0)
    """Expected regret: how much better than the chosen design the best candidate is, in expectation over joint draws
    of the posterior. No further run can gain more than this."""
    noise: float = Field(gt=0)
    """Standard deviation between two seeds of one design."""
    gain: float = Field(ge=0)
    """The largest knowledge gradient of any affordable run, were all the rest of the budget spent on repeating it."""

    @property
    def reason_to_stop(self) -> Reason | None:
        """Why the search should end, if it should.

        ``settled``: a better choice would not be told from this one by training both. ``unchangeable``: no affordable
        run can be expected to change the choice.
        """
        if self.regret < self.noise:
            return "settled"
        return "unchangeable" if self.gain < NEGLIGIBLE * self.noise else None


class Ending(Frozen):
    """Why a search is over."""

    reason: Literal["settled", "unchangeable", "budget"]
    """``budget``: it pays for no further run."""
    standing: Standing | None
    """Of the decision; None where no run has given a loss."""
    saved_flops: float = Field(ge=0)
    """Training FLOPs of the budget that were not needed, or too few for a run."""
    budget_flops: float = Field(gt=0)

    @property
    def saved_share(self) -> float:
        """``saved_flops`` over the budget."""
        return self.saved_flops / self.budget_flops

    @property
    def sentence(self) -> str:
        """Why, with the numbers, for a person."""
        saved = f"{self.saved_share:.0%} of the budget ({self.saved_flops:.2g} FLOPs) was not needed"
        s = self.standing
        if s is None:
            return "the search ended because the budget pays for no further run; none has given a loss"
        regret = f"the expected regret of the choice is {s.regret:.2g} bits/byte"
        match self.reason:
            case "settled":
                return f"the search ended early: {regret}, below the noise between seeds ({s.noise:.2g}); {saved}"
            case "unchangeable":
                return (
                    f"the search ended early: {regret}, and what is left of the budget would lower it by "
                    f"{s.gain:.1g} at most, a hundredth of the noise between seeds ({s.noise:.2g}); {saved}"
                )
            case "budget":
                return (
                    f"the search ended because the budget pays for no further run; {regret}, "
                    f"the noise between seeds {s.noise:.2g}"
                )
