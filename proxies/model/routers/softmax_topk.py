"""Softmax over all experts, then the k largest (GShard, arXiv 2006.16668; OLMoE and Qwen-MoE use it)."""

from torch import Tensor

from moe_search.kernels.router import Routed, route
from moe_search.proxies.model.routers import Router
from moe_search.proxies.model.routing import TokenContext


class SoftmaxTopK(Router):
    """``s = softmax(W x)``; gates are the k largest ``s``, divided by their sum if ``normalise_gates``.

    Without normalisation the gates sum to less than one, and the sum tells how sure the router is. With ``top_k`` 1
    they are never normalised: this is the router of Switch Transformer (arXiv 2101.03961, equation 2).
    """

    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Routed:
        """Assign the tokens ``x`` (tokens, d_model) to experts."""
        return route(
            x,
            self.weight,
            top_k=self.top_k,
            score="softmax",
            normalise_gates=self.normalise_gates,
            selection_bias=selection_bias,
            finite=True,  # what is not shows in the loss, which training watches
        )
