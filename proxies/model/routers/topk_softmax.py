"""The k largest logits, then a softmax over them alone (Mixtral, arXiv 2401.04088; gpt-oss)."""

from torch import Tensor

from moe_search.kernels.router import Routed, route
from moe_search.proxies.model.routers import Router
from moe_search.proxies.model.routing import TokenContext


class TopKSoftmax(Router):
    """Gates are ``softmax`` of the selected logits: they always sum to one, whatever ``normalise_gates`` says.

    Equal to ``softmax_topk`` with normalised gates (a softmax restricted to a subset is the softmax of the subset);
    they differ where the other leaves its gates as they are. The softmax of a single logit is constant and would teach
    the router nothing, so with ``top_k`` 1 the gate is the probability among all experts, which is also what the
    auxiliary loss sees.
    """

    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Routed:
        """Assign the tokens ``x`` (tokens, d_model) to experts."""
        return route(
            x,
            self.weight,
            top_k=self.top_k,
            score="softmax",
            normalise_gates=self.top_k > 1,
            selection_bias=selection_bias,
            finite=True,  # what is not shows in the loss, which training watches
        )
