"""Loss-free balancing (Wang et al., arXiv 2408.15664): a bias on the selection instead of a gradient.

``b_i += u · sign(mean load - load_i)`` once an optimiser step, from the load of the whole step. The experts of a token
are the k largest ``s_i + b_i``; gates use ``s_i`` alone, so no gradient is bent towards balance.
"""

import torch
from torch import Tensor

from moe_search.proxies.model.balancing import Balancing, all_reduced
from moe_search.proxies.model.routing import Decision
from moe_search.spaces.architecture import Routing


class LossFree(Balancing):
    """A bias of one number an expert; ``balance_coefficient`` is its step ``u`` (1e-3 in the paper)."""

    selection_bias: Tensor
    counts_of_step: Tensor

    def __init__(self, n_experts: int, routing: Routing) -> None:
        super().__init__(n_experts, routing)
        self.register_buffer("selection_bias", torch.zeros(n_experts))
        self.register_buffer("counts_of_step", torch.zeros(n_experts, dtype=torch.int64), persistent=False)

    def forward(self, counts: Tensor, decision: Decision) -> Tensor | None:
        """Count the load of this micro-batch; there is no loss."""
        if self.training:
            self.counts_of_step += counts
        return None

    def end_step(self) -> None:
        """Move the bias against the load of the step."""
        load = all_reduced(self.counts_of_step).to(self.selection_bias.dtype)
        self.selection_bias += self.coefficient * torch.sign(load.mean() - load)
        self.counts_of_step.zero_()
