"""No balancing: the load goes where the router likes it."""

from torch import Tensor

from moe_search.proxies.model.balancing import Balancing
from moe_search.proxies.model.routing import Decision


class NoBalancing(Balancing):
    """Adds no loss and no bias."""

    def forward(self, counts: Tensor, decision: Decision) -> Tensor | None:
        """Return nothing."""
        return None

    def end_step(self) -> None:
        """Do nothing."""
