"""What a campaign may choose about its search: the ``search:`` block. Fixed when the campaign is started."""

from moe_search.spaces.frozen import Frozen


class Policy(Frozen):
    """The options of the policy."""

    stop: bool = True
    """End when the decision is settled, or when no affordable run can change it; false: spend the whole budget."""
