"""The auxiliary load-balancing loss (Switch, arXiv 2101.03961, equation 4) with the scope of arXiv 2501.11873.

``L = E · Σ_i f_i p_i`` with ``f_i`` the share of assignments that expert i gets and ``p_i`` its mean router
probability: 1 for a perfectly even load, E for collapse onto one expert. ``f`` has no gradient; ``p`` learns. With
global scope ``f`` is counted over all micro-batches of the optimiser step so far and over all processes, so that an
expert may specialise in a domain as long as the whole batch uses all experts; micro scope evens out every micro-batch.
"""

import torch
from torch import Tensor

from moe_search.proxies.model.balancing import Balancing, all_reduced
from moe_search.proxies.model.routing import Decision
from moe_search.spaces.architecture import Routing


class AuxiliaryLoss(Balancing):
    """``coefficient · E · Σ f_i p_i``."""

    counts_of_step: Tensor

    def __init__(self, n_experts: int, routing: Routing) -> None:
        super().__init__(n_experts, routing)
        # Empty between steps, where checkpoints are taken, so it is no part of the state.
        self.register_buffer("counts_of_step", torch.zeros(n_experts, dtype=torch.int64), persistent=False)

    def forward(self, counts: Tensor, decision: Decision) -> Tensor | None:
        """Return the loss; None for a router without probabilities, which cannot learn balance."""
        p = decision.mean_probability
        if p is None:
            return None
        if self.scope == "global" and self.training:
            self.counts_of_step += all_reduced(counts)
            counts = self.counts_of_step
        f = counts / counts.sum()
        return self.coefficient * self.n_experts * (f.to(p.dtype) @ p)

    def end_step(self) -> None:
        """Forget the counts of the step."""
        self.counts_of_step.zero_()
