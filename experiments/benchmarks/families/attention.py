"""Causal attention against torch's own and against plain matrix products.

FLOPs are those of scores and weighted values below the diagonal, forward, times three; kept for backward should be
queries, keys, values, the output and a normaliser a row (FlashAttention, Dao et al., arXiv 2205.14135).
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from moe_search.experiments.benchmarks.contestants import Case, Contestant, gemm_peaks, has_onednn
from moe_search.experiments.benchmarks.families import Family, Setting
from moe_search.kernels.attention import BACKENDS, causal_attention
from moe_search.spaces.errors import InvalidInputError


class CausalAttention(Family):
    """Grouped-query attention at the heads and lengths of proxies."""

    dimensions: ClassVar[tuple[str, ...]] = ("seq_len", "n_heads", "n_kv_heads", "head_dim")
    defaults: ClassVar[tuple[tuple[int, ...], ...]] = (
        (256, 4, 4, 64),
        (256, 16, 16, 16),
        (512, 8, 2, 32),
        (1024, 4, 4, 64),
    )

    def case(self, shape: tuple[int, ...], setting: Setting) -> Case:
        """Return attention of (seq_len, n_heads, n_kv_heads, head_dim) with all who compute it."""
        length, n_heads, n_kv_heads, head_dim = shape
        if n_heads % n_kv_heads:
            raise InvalidInputError(f"{n_kv_heads} key/value heads do not divide {n_heads}", where="--shape")
        if setting.tokens % length:
            raise InvalidInputError(
                f"{setting.tokens} tokens are no whole number of sequences of {length}", where="--tokens"
            )
        device = torch.device(setting.device)
        generator = torch.Generator().manual_seed(setting.seed)
        q, k, v = leaves = tuple(
            torch.randn(setting.tokens // length, length, heads, head_dim, generator=generator)
            .to(device, setting.torch_dtype)
            .requires_grad_()
            for heads in (n_heads, n_kv_heads, n_kv_heads)
        )
        above = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)

        def torch_sdpa() -> Tensor:
            mixed = functional.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                is_causal=True,
                enable_gqa=n_kv_heads != n_heads,
            )
            return mixed.transpose(1, 2).contiguous()

        def plain() -> Tensor:
            keys, values = (tensor.transpose(1, 2).repeat_interleave(n_heads // n_kv_heads, dim=1) for tensor in (k, v))
            scores = (q.transpose(1, 2) @ keys.mT * head_dim**-0.5).masked_fill(above, -torch.inf)
            mixed: Tensor = scores.softmax(dim=-1) @ values
            return mixed.transpose(1, 2).contiguous()

        return Case(
            family="attention",
            shape=dict(zip(self.dimensions, shape, strict=True)),
            dtype=setting.torch_dtype,
            tokens=setting.tokens,
            flops=6.0 * setting.tokens * (length + 1) * n_heads * head_dim,
            baseline="torch sdpa",
            contestants=[
                *(
                    Contestant(
                        name, partial(causal_attention, q, k, v, backend=name, finite=True), kind="ours", leaves=leaves
                    )
                    for name in BACKENDS
                ),
                Contestant("torch sdpa", torch_sdpa, leaves=leaves),
                Contestant("plain", plain, leaves=leaves),
                *(
                    [Contestant("plain onednn", plain, leaves=leaves, precision="medium")]
                    if has_onednn(setting.torch_dtype, device)
                    else []
                ),
                *gemm_peaks(setting.torch_dtype, device),
            ],
            kept_bound=setting.tokens * (2.0 * (n_heads + n_kv_heads) * head_dim + n_heads),
        )
