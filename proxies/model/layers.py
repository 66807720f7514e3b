"""The parts of a decoder block: projection, norm, attention, dense and routed feed-forward.

In shapes: B sequences, S tokens of a sequence, D model width, H query heads, G key/value heads, C head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.kernels.attention import causal_attention
from moe_search.kernels.moe_ffn import moe_ffn
from moe_search.kernels.rms_norm import rms_norm
from moe_search.kernels.rotary import rotary
from moe_search.proxies.model.balancing import BALANCING
from moe_search.proxies.model.routers import ROUTERS
from moe_search.proxies.model.routing import Decision, RoutingStatistics, TokenContext
from moe_search.spaces.architecture import DenseFFN, MoEFFN, Routing
from moe_search.spaces.mixers import GroupedQueryAttention

NORM_EPSILON = 1e-6
FINITE = True
"""Kernels do not look for NaN and inf, pass by pass: they show in the loss, which training watches."""


class Projection(nn.Module):
    """A matrix without bias. ``writes_residual`` marks those whose output is added to the residual stream."""

    def __init__(self, d_in: int, d_out: int, *, writes_residual: bool = False) -> None:
        super().__init__()
        self.writes_residual = writes_residual
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, d_out) for ``x`` (…, d_in)."""
        return functional.linear(x, self.weight)


class RMSNorm(nn.Module):
    """Division by the root mean square, times a learned gain (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like ``x`` (…, width)."""
        return rms_norm(x, self.weight, epsilon=NORM_EPSILON, finite=FINITE)


class RotaryPositions(nn.Module):
    """Rotary position embedding (Su et al., arXiv 2104.09864), halves paired as in Hugging Face models."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_len: int, theta: float) -> None:
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(max_len, dtype=torch.float64), frequency)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn the heads ``x`` (B, S, heads, C) by their positions 0 to S - 1."""
        length = x.shape[1]
        return rotary(x, self.cos[:length], self.sin[:length], finite=FINITE)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and, if wanted, norms on queries and keys.

    The norms come before the rotation, as in Qwen3.
    """

    def __init__(self, shape: GroupedQueryAttention, d_model: int, *, max_len: int, rope_theta: float) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        self.qkv = Projection(d_model, (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim)
        self.query_norm = RMSNorm(shape.head_dim) if shape.qk_norm else None
        self.key_norm = RMSNorm(shape.head_dim) if shape.qk_norm else None
        self.rotary = RotaryPositions(shape.head_dim, max_len, rope_theta)
        self.output = Projection(shape.query_width, d_model, writes_residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``x`` (B, S, D) along the sequence."""
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, self.n_heads + 2 * self.n_kv_heads, self.head_dim)
        turned, v = heads.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = turned.split((self.n_heads, self.n_kv_heads), dim=2)
            q, k = self.rotary(self.query_norm(q)), self.rotary(self.key_norm(k))
        else:
            q, k = self.rotary(turned).split((self.n_heads, self.n_kv_heads), dim=2)
        out: Tensor = self.output(causal_attention(q, k, v, finite=FINITE).flatten(2))
        return out


class FeedForward(nn.Module):
    """A dense feed-forward part: SwiGLU if gated, squared ReLU if not."""

    def __init__(self, d_model: int, d_ff: int, *, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.up = Projection(d_model, 2 * d_ff if gated else d_ff)
        """Gate half first, then up half."""
        self.down = Projection(d_ff, d_model, writes_residual=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like ``x`` (…, D)."""
        h = self.up(x)
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            hidden = functional.silu(gate) * up
        else:
            hidden = functional.relu(h).square()
        out: Tensor = self.down(hidden)
        return out


class Experts(nn.Module):
    """The matrices of all routed experts of a layer, in the layout of :func:`moe_search.kernels.moe_ffn.moe_ffn`."""

    def __init__(self, ffn: MoEFFN, d_model: int) -> None:
        super().__init__()
        self.top_k = ffn.top_k
        self.w_up = nn.Parameter(torch.empty(ffn.n_experts, (2 if ffn.gated else 1) * ffn.d_expert, d_model))
        self.w_down = nn.Parameter(torch.empty(ffn.n_experts, ffn.d_expert, d_model))


class LayerRouting(NamedTuple):
    """What a routed layer reports beside its output."""

    auxiliary_loss: Tensor
    statistics: RoutingStatistics


class MixtureOfExperts(nn.Module):
    """Routed experts, and beside them the shared experts as one dense FFN of their summed width."""

    def __init__(self, ffn: MoEFFN, d_model: int, routing: Routing, *, key: int, backend: str) -> None:
        super().__init__()
        self.n_experts, self.backend = ffn.n_experts, backend
        self.activation = "swiglu" if ffn.gated else "relu2"
        self.z_coefficient = routing.z_loss_coefficient
        self.router = ROUTERS.get(routing.router)(ffn, d_model, routing, key=key)
        self.balancing = BALANCING.get(routing.balancing)(ffn.n_experts, routing)
        self.experts = Experts(ffn, d_model)
        self.shared = FeedForward(d_model, ffn.shared_width, gated=ffn.gated) if ffn.n_shared_experts else None

    def forward(self, x: Tensor, context: TokenContext) -> tuple[Tensor, LayerRouting]:
        """Return the output for ``x`` (B, S, D), and how it was routed."""
        tokens = x.flatten(0, 1)
        decision: Decision = self.router(tokens, context, self.balancing.selection_bias)
        out = moe_ffn(
            tokens,
            self.experts.w_up,
            self.experts.w_down,
            decision.expert_index,
            decision.gates,
            activation=self.activation,
            backend=self.backend,
            finite=FINITE,
        ).view_as(x)
        if self.shared is not None:
            out = out + self.shared(x)
        statistics = RoutingStatistics.of(decision, self.n_experts)
        auxiliary_loss = tokens.new_zeros((), dtype=torch.float32)
        balance_loss = self.balancing(statistics.counts, decision)
        if balance_loss is not None:
            auxiliary_loss = auxiliary_loss + balance_loss
        if self.z_coefficient > 0 and (z_loss := decision.mean_square_log_partition) is not None:
            # Router z-loss, ST-MoE (arXiv 2202.08906, equation 5).
            auxiliary_loss = auxiliary_loss + self.z_coefficient * z_loss
        return out, LayerRouting(auxiliary_loss, statistics)


def build_ffn(ffn: DenseFFN | MoEFFN, d_model: int, routing: Routing, *, key: int, backend: str) -> nn.Module:
    """Return the module of a feed-forward part."""
    if isinstance(ffn, MoEFFN):
        return MixtureOfExperts(ffn, d_model, routing, key=key, backend=backend)
    return FeedForward(d_model, ffn.d_ff, gated=ffn.gated)
