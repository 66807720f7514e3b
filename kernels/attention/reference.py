"""Causal attention in its obvious form: what every fast backend is compared with."""

import torch
from torch import Tensor

from moe_search.kernels.passes import count_pass


def reference_causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Return ``out[i] = sum_{j <= i} softmax_j(scale <q[i], k[j]>) v[j]`` for every sequence and head.

    Works in any floating type (float64 for tests) and is differentiated by autograd, twice if need be.
    """
    count_pass("attention", "reference")
    group, length = q.shape[2] // k.shape[2], q.shape[1]
    k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
    scores = scale * torch.einsum("bihc,bjhc->bhij", q, k)
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return torch.einsum("bhij,bjhc->bihc", weights, v).contiguous()
