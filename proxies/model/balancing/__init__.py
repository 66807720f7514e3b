"""Balancing: what keeps the load of the experts even. One file a way; its name is the name in ``Routing.balancing``."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from moe_search.proxies.model.registry import Registry
from moe_search.proxies.model.routing import Decision
from moe_search.spaces.architecture import Routing

__all__ = ["BALANCING", "Balancing", "all_reduced"]


class Balancing(nn.Module):
    """One layer's balancing. It sees every micro-batch of an optimiser step, and is told when the step is over.

    Args:
        n_experts: routed experts of the layer.
        routing: coefficient and scope.
    """

    selection_bias: Tensor | None
    """(n_experts,) added to the scores for the selection only; None: nothing is added."""

    def __init__(self, n_experts: int, routing: Routing) -> None:
        super().__init__()
        self.n_experts, self.coefficient, self.scope = n_experts, routing.balance_coefficient, routing.balance_scope
        self.register_buffer("selection_bias", None)

    @abstractmethod
    def forward(self, counts: Tensor, decision: Decision) -> Tensor | None:
        """Return the loss to add for this micro-batch, its coefficient included; None: nothing.

        Args:
            counts: (n_experts,) int64, assignments of this micro-batch.
            decision: what the router decided.
        """

    @abstractmethod
    def end_step(self) -> None:
        """Close an optimiser step: forget its counts, update what is updated once a step."""


def all_reduced(counts: Tensor) -> Tensor:
    """Return the sum of ``counts`` over all processes of a distributed job, else ``counts`` itself."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return counts
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return total


BALANCING: Registry[Balancing] = Registry(__name__, Balancing, where="routing.balancing")  # type: ignore[type-abstract]
