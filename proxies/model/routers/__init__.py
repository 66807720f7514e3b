"""Routers: how a token chooses its experts. One file a router; the file's name is the name in ``Routing.router``."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.proxies.model.registry import Registry
from moe_search.proxies.model.routing import Decision, TokenContext
from moe_search.spaces.architecture import MoEFFN, Routing

__all__ = ["ROUTERS", "Router"]


class Router(nn.Module):
    """A linear map of the hidden state to one logit an expert, and a rule that turns logits into an assignment.

    Those whose rule is one of :func:`moe_search.kernels.router.route` call it; others write theirs in PyTorch, with
    ``logits``, ``select`` and ``gates``, and return an :class:`~moe_search.proxies.model.routing.Assignment`.

    Args:
        ffn: gives experts and top_k.
        d_model: width of the hidden state.
        routing: its options.
        key: distinguishes the routers of one model, and models of different seeds, where a router is pseudo-random;
            others ignore it.
    """

    def __init__(self, ffn: MoEFFN, d_model: int, routing: Routing, *, key: int = 0) -> None:
        super().__init__()
        self.n_experts, self.top_k = ffn.n_experts, ffn.top_k
        self.normalise_gates = routing.normalise_gates and ffn.top_k > 1
        """Never with one expert a token: its gate would always be 1, and the loss would teach the router nothing."""
        self.weight = nn.Parameter(torch.empty(ffn.n_experts, d_model))

    def logits(self, x: Tensor) -> Tensor:
        """Return (tokens, n_experts) logits, in float32 at least, whatever the type of ``x`` (tokens, d_model)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x.to(dtype), self.weight.to(dtype))

    def select(self, scores: Tensor, selection_bias: Tensor | None) -> Tensor:
        """Return (tokens, top_k) indices of the largest of ``scores`` (tokens, n_experts), to which a bias is added.

        The bias decides who is selected and never enters a gate (loss-free balancing).
        """
        biased = scores.detach() if selection_bias is None else scores.detach() + selection_bias
        return biased.topk(self.top_k, dim=-1, sorted=False).indices

    def gates(self, scores: Tensor, experts: Tensor) -> Tensor:
        """Return the (tokens, top_k) scores of the selected ``experts``, divided by their sum if so configured."""
        gates = scores.gather(-1, experts)
        return gates / gates.sum(dim=-1, keepdim=True) if self.normalise_gates else gates

    @abstractmethod
    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Decision:
        """Assign the tokens ``x`` (tokens, d_model) to experts."""


ROUTERS: Registry[Router] = Registry(__name__, Router, where="routing.router")  # type: ignore[type-abstract]
