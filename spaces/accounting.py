"""Exact parameters, FLOPs and memory of an architecture, by formula.

Conventions, the same in every number of moe-search:

- *Non-embedding* leaves out the input embedding and the output head; norms are counted. Tied matrices are counted once.
- *Active* parameters are those that one token uses: ``top_k`` experts of ``n_experts``, everything else whole.
- FLOPs are twice the multiply-adds of the matrix products of a forward pass: projections, causal attention averaged
  over the sequence, router, experts, head. Embedding lookup, norms, softmax and activation functions are left out.
  Training costs three forward passes (one forward, two backward).
"""

from typing import NamedTuple

from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN
from moe_search.spaces.frozen import Frozen


class LayerCount(Frozen):
    """Parameters of one layer."""

    parameters: int
    """All of them: the sum of the parts below."""
    active: int
    """Those that one token uses."""
    attention: int
    """The token mixer, whatever it is, with its own norms and biases."""
    router: int
    experts: int
    """Routed experts."""
    shared: int
    """Shared experts and their gate."""
    dense: int
    """The dense FFN."""
    latent: int
    """Projections into and out of the width at which latent experts work."""
    norms: int
    """The norms before (and after) mixer and FFN."""
    residual: int
    """What mixes or scales the residual stream."""


class Count(Frozen):
    """Parameters of a model."""

    n_total: int
    n_active: int
    n_total_non_embedding: int
    n_active_non_embedding: int
    embedding: int
    head: int
    """Output head with its bias; without the matrix when that is tied to the embedding."""
    final_norm: int
    layers: tuple[LayerCount, ...]


class FlopsPerToken(Frozen):
    """FLOPs a token; ``forward`` is the sum of the parts."""

    forward: float
    train: float
    """Forward and backward: three times ``forward``."""
    attention: float
    """Token mixers: projections and what they do along the sequence."""
    attention_scores: float
    """The share of ``attention`` that grows with the sequence: scores and weighted values, or state updates."""
    router: float
    experts: float
    """Routed experts, with the latent projections."""
    shared: float
    dense: float
    residual: float
    head: float


def _matrices(ffn: DenseFFN | MoEFFN) -> int:
    return 3 if ffn.gated else 2


def _ffn_biases(ffn: DenseFFN | MoEFFN, d_inner: int, d_outer: int) -> int:
    return ((_matrices(ffn) - 1) * d_inner + d_outer) * ffn.bias


def _router(ffn: MoEFFN, d_model: int) -> tuple[int, int]:
    """Return the router's matrix entries and its other parameters."""
    if ffn.router_mlp is None:
        return ffn.n_experts * d_model, ffn.n_experts * ffn.bias
    width = ffn.router_mlp.width  # down (bias), norm, two hidden layers (bias), output without bias
    matrices = width * (d_model + 2 * width + ffn.n_experts + ffn.router_mlp.n_skip)
    return matrices, width * (4 + ffn.router_mlp.carries_state)


class _Residual(NamedTuple):
    """What the residual stream costs beside the layers."""

    norms: int
    """Norm parameters before (and after) one mixer or FFN."""
    matrices: int
    """Matrix entries around one mixer or FFN."""
    vectors: int
    final_norm: int
    outside: int
    """Parameters outside the layers."""


def _residual(architecture: Architecture) -> _Residual:
    d_model, streams = architecture.d_model, architecture.hyper_connections or 0
    norm = d_model * (1 + architecture.norm_bias)
    # mHC (DeepSeek-V4, section 2.2): from all n streams to n read, n write and n x n mixing weights, with bias and 3
    # scales; at the end to n read weights with bias and scale.
    mixing = streams * (streams + 2)
    vectors = (mixing + 3) * (streams > 0) + 4 * d_model * architecture.residual_scaling
    outside = (streams * streams * d_model + streams + 1) * (streams > 0) + 2 * d_model * architecture.residual_scaling
    return _Residual(
        norms=norm * (1 + architecture.post_norm),
        matrices=mixing * streams * d_model,
        vectors=vectors,
        final_norm=norm,
        outside=outside,
    )


def _count_layer(layer: Layer, d_model: int, residual: _Residual) -> LayerCount:
    router = experts = active_experts = shared = dense = latent = 0
    match layer.ffn:
        case DenseFFN() as ffn:
            dense = _matrices(ffn) * d_model * ffn.d_ff + _ffn_biases(ffn, ffn.d_ff, d_model)
        case MoEFFN() as ffn:
            width = ffn.latent_dim or d_model
            expert = _matrices(ffn) * width * ffn.d_expert + _ffn_biases(ffn, ffn.d_expert, width)
            experts, active_experts = ffn.n_experts * expert, ffn.top_k * expert
            router = sum(_router(ffn, d_model))
            shared = _matrices(ffn) * d_model * ffn.shared_width + d_model * ffn.shared_expert_gate
            latent = 2 * d_model * ffn.latent_dim + width * ffn.latent_norm if ffn.latent_dim else 0
        case None:
            pass
    attention = layer.mixer.matrices(d_model) + layer.mixer.vectors(d_model) if layer.mixer else 0
    parts = (layer.mixer is not None) + (layer.ffn is not None)
    norms, residuals = parts * residual.norms, parts * (residual.matrices + residual.vectors)
    rest = attention + router + shared + dense + latent + norms + residuals
    return LayerCount(
        parameters=rest + experts,
        active=rest + active_experts,
        attention=attention,
        router=router,
        experts=experts,
        shared=shared,
        dense=dense,
        latent=latent,
        norms=norms,
        residual=residuals,
    )


def count(architecture: Architecture) -> Count:
    """Return the exact parameter counts, equal to those of the instantiated model.

    The balancing bias of loss-free routing is a buffer, not a parameter, and is not counted.
    """
    d_model, residual = architecture.d_model, _residual(architecture)
    known: dict[int, LayerCount] = {}  # resolve() shares equal layers, so that a deep model is counted in microseconds
    for layer in architecture.layers:
        if id(layer) not in known:
            known[id(layer)] = _count_layer(layer, d_model, residual)
    layers = tuple(known[id(layer)] for layer in architecture.layers)
    embedding = architecture.vocab_size * d_model
    head = (0 if architecture.tied_embeddings else embedding) + architecture.vocab_size * architecture.head_bias
    total = sum(layer.parameters for layer in layers) + residual.final_norm + residual.outside
    active = sum(layer.active for layer in layers) + residual.final_norm + residual.outside
    return Count(
        n_total=total + embedding + head,
        n_active=active + embedding + head,
        n_total_non_embedding=total,
        n_active_non_embedding=active,
        embedding=embedding,
        head=head,
        final_norm=residual.final_norm,
        layers=layers,
    )


def flops_per_token(architecture: Architecture, seq_len: int | None = None) -> FlopsPerToken:
    """Return forward and training FLOPs a token, averaged over a sequence.

    Args:
        architecture: the model.
        seq_len: tokens of the sequence; None: the architecture's own.
    """
    d_model, length, around = architecture.d_model, seq_len or architecture.seq_len, _residual(architecture).matrices
    projections = scores = router = experts = shared = dense = residual = 0.0
    for layer in architecture.layers:
        residual += 2.0 * around * ((layer.mixer is not None) + (layer.ffn is not None))
        if layer.mixer:
            projections += 2.0 * layer.mixer.matrices(d_model)
            scores += layer.mixer.sequence_flops(length)
        match layer.ffn:
            case DenseFFN() as ffn:
                dense += 2.0 * _matrices(ffn) * d_model * ffn.d_ff
            case MoEFFN() as ffn:
                width = ffn.latent_dim or d_model
                router += 2.0 * _router(ffn, d_model)[0]
                experts += 2.0 * ffn.top_k * _matrices(ffn) * width * ffn.d_expert + 4.0 * d_model * (
                    ffn.latent_dim or 0
                )
                shared += 2.0 * d_model * (_matrices(ffn) * ffn.shared_width + ffn.shared_expert_gate)
            case None:
                pass
    head = 2.0 * d_model * architecture.vocab_size
    forward = projections + scores + router + experts + shared + dense + residual + head
    return FlopsPerToken(
        forward=forward,
        train=3 * forward,
        attention=projections + scores,
        attention_scores=scores,
        router=router,
        experts=experts,
        shared=shared,
        dense=dense,
        residual=residual,
        head=head,
    )


def train_flops(architecture: Architecture, tokens: int) -> float:
    """Return the FLOPs, forward and backward, of training on ``tokens`` tokens in sequences of ``seq_len``."""
    return flops_per_token(architecture).train * tokens


def memory_bytes(
    architecture: Architecture,
    *,
    batch_tokens: int,
    weight_bytes: float = 2,
    gradient_bytes: float | None = None,
    optimizer_bytes: float = 12,
    activation_bytes: float = 2,
    cache_tokens: int | None = None,
    cache_sequences: int = 1,
    cache_bytes: float = 2,
) -> dict[str, float]:
    """Return the bytes of training and of inference by part; nothing is sharded.

    Activations are those kept for the backward pass without recomputation of layers: of each mixer its norm's input and
    output, q, k, v and the output (FlashAttention keeps no score matrix); of each FFN its norm's input and output, the
    router's logits, and for each active expert the gate and up halves, their product and the output. The head's logits
    are left out, because the loss is computed in chunks.

    Args:
        architecture: the model.
        batch_tokens: tokens whose activations are alive at once (a micro-batch).
        weight_bytes: bytes a weight (2: bfloat16).
        gradient_bytes: bytes a gradient; None: like a weight.
        optimizer_bytes: bytes of optimiser state a parameter (12: float32 master weight and two Adam moments).
        activation_bytes: bytes an activation.
        cache_tokens: length of a sequence in the inference cache; None: ``seq_len``.
        cache_sequences: sequences in the cache.
        cache_bytes: bytes a cached number.

    Returns:
        ``weights``, ``gradients``, ``optimizer``, ``activations``, ``kv_cache``, each in bytes.
    """
    d_model, total = architecture.d_model, count(architecture).n_total
    length = architecture.seq_len if cache_tokens is None else cache_tokens
    activations = d_model  # the final norm's input
    cache = 0.0
    for layer in architecture.layers:
        if layer.mixer:
            activations += layer.mixer.activations(d_model)
            cache += layer.mixer.cache(length)
        match layer.ffn:
            case DenseFFN() as ffn:
                activations += 2 * d_model + _matrices(ffn) * ffn.d_ff
            case MoEFFN() as ffn:
                width = ffn.latent_dim or d_model
                active = ffn.top_k * ffn.d_expert + ffn.shared_width
                activations += 2 * d_model + ffn.n_experts + _matrices(ffn) * active + ffn.top_k * width
            case None:
                pass
    return {
        "weights": total * float(weight_bytes),
        "gradients": total * float(weight_bytes if gradient_bytes is None else gradient_bytes),
        "optimizer": total * float(optimizer_bytes),
        "activations": activations * batch_tokens * float(activation_bytes),
        "kv_cache": cache * cache_sequences * float(cache_bytes),
    }
