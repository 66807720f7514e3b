"""What a campaign may choose about its search: the ``search:`` block. Fixed when the campaign is started."""

from typing import Literal

from moe_search.spaces.frozen import Frozen


class Policy(Frozen):
    """The options of the policy."""

    stop: bool = True
    """End when the decision is settled, or when no affordable run can change it; false: spend the whole budget."""
    cost: Literal["flops", "seconds"] = "flops"
    """What a run's gain is divided by. The budget is counted in FLOPs either way. ``flops``: the same trials on every
    machine. ``seconds``: predicted device-seconds, learned from the trials that have ended; the trials then depend on
    what was measured, though still on nothing but the rows."""
    surrogate: Literal["auto", "law_gp", "gp", "log_linear"] = "auto"
    """What predicts a design at the ladder's top: the law with a Gaussian process, the process with a trend instead of
    the law, or a log-linear regression. ``auto``: the law, unless trials at the highest scales are predicted better by
    another form, by more than chance."""
