"""A router that learns nothing: the control that every learned router has to beat.

Assignments are a fixed pseudo-random function of seed, layer, position and token id. They are balanced, differ from
layer to layer, and are the same in every epoch and on held-out text; the hidden state has no influence. Because the
position takes part, an expert cannot become the expert of a token id, as it can in Hash Layers (arXiv 2106.04426).
"""

import torch
from torch import Tensor

from moe_search.proxies.model.routers import Router
from moe_search.proxies.model.routing import Assignment, TokenContext
from moe_search.spaces.architecture import MoEFFN, Routing

_MASK = 0xFFFFFFFF


def mixed(value: Tensor) -> Tensor:
    """Return a 32-bit hash of every entry (int64 in, int64 out in [0, 2^32)); multipliers of Wellons' lowbias32."""
    value = value & _MASK
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK
    return value ^ (value >> 16)


class Random(Router):
    """The k experts whose hashes are largest, each with gate 1/k.

    The router's matrix exists and is frozen: the model has exactly the parameters that accounting counts for a router,
    so that the control has the size of what it controls.
    """

    key_of_layer: Tensor

    def __init__(self, ffn: MoEFFN, d_model: int, routing: Routing, *, key: int = 0) -> None:
        super().__init__(ffn, d_model, routing, key=key)
        self.weight.requires_grad = False
        self.register_buffer("key_of_layer", torch.tensor(key & _MASK))

    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Assignment:
        """Assign as many tokens as ``x`` (tokens, d_model) has to experts; a bias is ignored."""
        token = mixed(context.token_ids + mixed(context.positions + mixed(self.key_of_layer)))
        expert = torch.arange(self.n_experts, device=token.device)
        experts = mixed(token[:, None] + mixed(expert + 1)).topk(self.top_k, dim=-1, sorted=False).indices
        gates = torch.full_like(experts, 1 / self.top_k, dtype=torch.float32)
        return Assignment(experts, gates, None, None)
