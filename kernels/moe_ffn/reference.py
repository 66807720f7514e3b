"""The MoE feed-forward layer in its obvious form: what every fast backend is compared with."""

import torch
from torch import Tensor

from moe_search.kernels.moe_ffn.activations import Activation
from moe_search.kernels.passes import count_pass


def reference_moe_ffn(
    x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, *, activation: Activation
) -> Tensor:
    """Return ``out[t] = sum_j gates[t, j] * act(x[t] @ w_up[e].T) @ w_down[e]`` with ``e = expert_index[t, j]``.

    Works in any floating type (float64 for tests) and is differentiated by autograd, twice if need be.
    """
    count_pass("moe_ffn", "reference")
    out = torch.zeros_like(x)
    for expert, (up, down) in enumerate(zip(w_up.unbind(), w_down.unbind(), strict=True)):
        token, slot = torch.where(expert_index == expert)
        hidden = activation.forward(x[token] @ up.T)
        out = out.index_add(0, token, (hidden @ down) * gates[token, slot, None].to(x.dtype))
    return out
