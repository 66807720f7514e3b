"""The proxy language model: a decoder with routed or dense feed-forward parts, built from an ``Architecture``.

RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU; see :mod:`moe_search.proxies.model.layers`.
In shapes: B sequences, S tokens of a sequence, D model width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_search.kernels.loss_head import linear_cross_entropy
from moe_search.proxies.model.layers import (
    FINITE,
    Attention,
    LayerRouting,
    MixtureOfExperts,
    RMSNorm,
    build_ffn,
)
from moe_search.proxies.model.routing import RoutingStatistics, TokenContext
from moe_search.spaces.architecture import Architecture, Layer
from moe_search.spaces.mixers import GroupedQueryAttention

HEAD_WIDTH = 64
"""Logits are multiplied by ``HEAD_WIDTH / d_model``: see :mod:`moe_search.proxies.model.width` for all three."""
EMBEDDING_STD = 0.5
HEAD_STD = 0.1


class ModelOutput(NamedTuple):
    """A forward pass without the head."""

    hidden: Tensor
    """(B, S, D) after the final norm; ``DecoderLM.logits`` turns it into logits."""
    auxiliary_loss: Tensor
    """Scalar: balance and z-losses with their coefficients, summed over layers; 0 for a dense model."""
    routing: tuple[RoutingStatistics, ...]
    """One for every MoE layer, from the input up."""


class LossOutput(NamedTuple):
    """A forward pass with the loss of predicting every next token."""

    loss: Tensor
    """Scalar: mean over the B * S tokens, nats a token, without ``auxiliary_loss``."""
    auxiliary_loss: Tensor
    token_nats: Tensor
    """(B, S), the loss of every token, without gradient."""
    routing: tuple[RoutingStatistics, ...]


class Embedding(nn.Module):
    """One row a token id, times ``scale``: a matrix that is the head too has a head's size, too small for an input."""

    def __init__(self, vocab_size: int, d_model: int, *, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, S, D)."""
        x = functional.embedding(tokens, self.weight)
        return x if self.scale == 1 else x * self.scale


class Head(nn.Module):
    """The output matrix, where it is not the embedding's."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, layer: Layer, architecture: Architecture, *, key: int, backend: str) -> None:
        super().__init__()
        if not isinstance(layer.mixer, GroupedQueryAttention) or layer.ffn is None:
            raise AssertionError("check_trainable lets no such layer pass")
        d_model = architecture.d_model
        self.mixer_norm = RMSNorm(d_model)
        self.mixer = Attention(layer.mixer, d_model, max_len=architecture.seq_len, rope_theta=architecture.rope_theta)
        self.ffn_norm = RMSNorm(d_model)
        self.ffn = build_ffn(layer.ffn, d_model, architecture.routing, key=key, backend=backend)

    def forward(self, x: Tensor, context: TokenContext) -> tuple[Tensor, LayerRouting | None]:
        """Return the residual stream (B, S, D) above this block, and how its tokens were routed."""
        x = x + self.mixer(self.mixer_norm(x))
        if isinstance(self.ffn, MixtureOfExperts):
            out, routed = self.ffn(self.ffn_norm(x), context)
            return x + out, routed
        return x + self.ffn(self.ffn_norm(x)), None


class DecoderLM(nn.Module):
    """A decoder-only language model. Make one with :func:`moe_search.proxies.model.build_model`, which initialises it.

    Args:
        architecture: what to build; it has been checked.
        router_keys: one integer a layer, which tells pseudo-random routers apart.
        backend: backend of the expert kernel.
    """

    def __init__(self, architecture: Architecture, *, router_keys: tuple[int, ...], backend: str) -> None:
        super().__init__()
        self.architecture = architecture
        d_model, vocab_size = architecture.d_model, architecture.vocab_size
        scale = EMBEDDING_STD / HEAD_STD if architecture.tied_embeddings else 1.0
        self.embedding = Embedding(vocab_size, d_model, scale=scale)
        self.layers = nn.ModuleList(
            Block(layer, architecture, key=key, backend=backend)
            for layer, key in zip(architecture.layers, router_keys, strict=True)
        )
        self.final_norm = RMSNorm(d_model)
        self.head = None if architecture.tied_embeddings else Head(vocab_size, d_model)

    def forward(self, tokens: Tensor) -> ModelOutput:
        """Run the model on ``tokens`` (B, S), int64; S may not exceed the architecture's ``seq_len``."""
        batch, length = tokens.shape
        if length > self.architecture.seq_len:
            raise ValueError(f"tokens has {length} in a sequence; the model was built for {self.architecture.seq_len}")
        positions = torch.arange(length, device=tokens.device).expand(batch, length)
        context = TokenContext(tokens.flatten(), positions.flatten())
        x = self.embedding(tokens)
        auxiliary_loss = x.new_zeros((), dtype=torch.float32)
        routing = []
        for block in self.layers:
            x, routed = block(x, context)
            if routed is not None:
                auxiliary_loss = auxiliary_loss + routed.auxiliary_loss
                routing.append(routed.statistics)
        return ModelOutput(self.final_norm(x), auxiliary_loss, tuple(routing))

    def _head_input(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self.embedding.weight if self.head is None else self.head.weight
        return hidden * (HEAD_WIDTH / self.architecture.d_model), matrix

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (…, V) logits of ``hidden`` (…, D), the final norm's output."""
        return functional.linear(*self._head_input(hidden))

    def loss(self, tokens: Tensor) -> LossOutput:
        """Return the loss of predicting ``tokens[:, 1:]`` from ``tokens[:, :-1]``; ``tokens`` is (B, S + 1), int64."""
        output = self(tokens[:, :-1])
        targets = tokens[:, 1:]
        hidden, matrix = self._head_input(output.hidden)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        total, nats = linear_cross_entropy(hidden.flatten(0, 1), matrix, targets.flatten(), finite=FINITE)
        return LossOutput(total / targets.numel(), output.auxiliary_loss, nats.view_as(targets), output.routing)

    def end_step(self) -> None:
        """Close an optimiser step: call it once after ``optimizer.step()``, however many micro-batches the step had."""
        for block in self.layers:
            if isinstance(block, Block) and isinstance(block.ffn, MixtureOfExperts):
                block.ffn.balancing.end_step()
