"""A run: one observation. The only thing that passes between training and fitting.

The Polars table of runs is :mod:`moe_search.scaling.runs`; this class is one row of it, in a form that training code
can build without knowing any table.
"""

import hashlib
import json
from typing import Literal

from pydantic import Field, PositiveInt

from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixture import Mixture

RunStatus = Literal["finished", "diverged", "truncated", "oom"]


class Run(Frozen):
    """One trained horizon of one proxy: raw dimensions, data, cost and losses.

    Raw dimensions are stored and each law derives its own variables; realised design values stand beside them for
    reading. Losses are nats a token inside, bits a byte for every comparison. Failures are runs with a status and
    without losses, never gaps.
    """

    run_key: str
    """Hash of design, scale, seed, recipe, data and code; the horizon is part of the scale."""
    trial: int | None = None
    """Number of the trial in its study; None outside a campaign."""
    status: RunStatus
    seed: int

    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    vocab_size: PositiveInt
    seq_len: PositiveInt
    n_moe_layers: int
    n_experts: float
    """Routed experts a MoE layer, averaged over MoE layers (a schedule varies them); 0 for a dense model."""
    top_k: int
    d_expert: int
    """Width of one routed expert; the FFN's width for a dense model."""
    n_shared_experts: int
    experts_per_layer: tuple[int, ...]
    """Routed experts of every layer, 0 where the layer is dense."""
    router: str
    balancing: str
    schedule_tilt: float = 0.0
    schedule_bow: float = 0.0
    schedule_wave: float = 0.0

    n_active: PositiveInt
    n_total: PositiveInt
    n_active_non_embedding: PositiveInt
    n_total_non_embedding: PositiveInt
    granularity: float
    """Realised."""
    activation_ratio: float
    """Realised."""
    expansion: float
    """Expert parameters of a layer over those active in it; 1 for a dense model."""

    tokens: PositiveInt
    batch_tokens: PositiveInt
    learning_rate: float
    mixture: Mixture
    epochs: dict[str, float] = Field(default_factory=dict)
    """Repetitions of each domain's training text: tokens drawn / tokens it has."""
    train_flops: float
    """Forward and backward FLOPs of a run of ``tokens`` tokens, whatever trunk it shared."""
    paid_flops: float
    """FLOPs that this observation cost beyond the observations it shares its trunk with."""

    loss: float | None = None
    """Mean over the domains' held-out text, nats a token."""
    bpb: float | None = None
    """Mean over the domains' held-out text, bits a byte: the default objective."""
    domain_loss: dict[str, float] = Field(default_factory=dict)
    """Nats a token on each domain's held-out text."""
    domain_bpb: dict[str, float] = Field(default_factory=dict)
    train_loss: float | None = None
    """Nats a token on the last training batches."""
    unigram_loss: float | None = None
    """Nats a token of the train split's unigram distribution on the same held-out text: what no model may lose to."""

    load_imbalance: float | None = None
    """Largest expert load over the mean load, averaged over MoE layers, on held-out text."""
    router_entropy: float | None = None
    """Entropy of the mean gate distribution over ln(n_experts), averaged over MoE layers: 1 is uniform use."""
    expert_load: tuple[tuple[float, ...], ...] = ()
    """Share of assignments that each expert of each MoE layer gets on held-out text."""

    wall_seconds: float | None = None
    tokens_per_second: float | None = None
    device: str = ""
    design_key: str = ""
    """``Design.fingerprint()``: runs of one design at several scales share it."""
    data_hash: str = ""
    tokenizer_hash: str = ""
    code_version: str = ""
    message: str = ""
    """Why a run did not finish."""


def run_key(design: Design, scale: Scale, seed: int, context: str) -> str:
    """Return 16 hex digits that name a run: the same on every machine, different whenever the result may differ.

    Args:
        design: what is trained.
        scale: size and tokens.
        seed: seed of initialisation and data order.
        context: fingerprint of recipe, data and code.
    """
    parts = [design.fingerprint(), scale.n_active, scale.tokens, seed, context]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
