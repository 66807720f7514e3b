"""Causal attention through PyTorch's ``scaled_dot_product_attention``: on GPUs, in float64, without a compiler."""

from torch import Tensor
from torch.nn import functional

from moe_search.kernels.passes import count_pass


def sdpa_causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Return the output; arguments as in :func:`moe_search.kernels.attention.causal_attention`, already checked."""
    count_pass("attention", "sdpa")
    mixed = functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return mixed.transpose(1, 2).contiguous()
