"""A sigmoid for every expert by itself (DeepSeek-V3, arXiv 2412.19437, equations 12 to 16)."""

from torch import Tensor

from moe_search.kernels.router import Routed, route
from moe_search.proxies.model.routers import Router
from moe_search.proxies.model.routing import TokenContext


class Sigmoid(Router):
    """``s = sigmoid(W x)``; the k largest ``s + bias`` are selected; gates are their ``s``, divided by the sum.

    The auxiliary loss sees ``s`` divided by its sum over all experts. There is no z-loss: a sigmoid has no denominator
    that could drift.
    """

    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Routed:
        """Assign the tokens ``x`` (tokens, d_model) to experts."""
        return route(
            x,
            self.weight,
            top_k=self.top_k,
            score="sigmoid",
            normalise_gates=self.normalise_gates,
            selection_bias=selection_bias,
            finite=True,  # what is not shows in the loss, which training watches
        )
