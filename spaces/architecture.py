"""An architecture: the integers of one concrete decoder, layer by layer.

The same class describes a 0.3 M proxy that is trained, a published 1 T model that is only counted, and the
recommendation that is exported. Names are those of Hugging Face configs where such a name exists.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixers import Mixer


class DenseFFN(Frozen):
    """A feed-forward block that every token passes: two matrices, or three when ``gated`` (SwiGLU)."""

    kind: Literal["dense"] = "dense"
    d_ff: PositiveInt
    gated: bool = True
    bias: bool = False
    """Biases on all its matrices."""


class RouterMLP(Frozen):
    """A router of three layers behind a down projection, instead of one matrix (ZAYA)."""

    width: PositiveInt
    n_skip: int = Field(default=0, ge=0)
    """Router outputs that stand for no expert: the token skips the layer."""
    carries_state: bool = False
    """Takes the hidden state of the router below, through a learned scale."""


class MoEFFN(Frozen):
    """Routed experts, of which each token takes ``top_k``, beside ``n_shared_experts`` that every token takes."""

    kind: Literal["moe"] = "moe"
    n_experts: PositiveInt
    top_k: PositiveInt
    d_expert: PositiveInt
    """Intermediate width of one routed expert."""
    n_shared_experts: int = Field(default=0, ge=0)
    d_shared_expert: PositiveInt | None = None
    """Intermediate width of one shared expert; None: as wide as a routed one."""
    gated: bool = True
    latent_dim: PositiveInt | None = None
    """Width at which the routed experts work (latent MoE); None: ``d_model``."""
    shared_expert_gate: bool = False
    """A sigmoid gate of ``d_model`` weights on the shared experts' output (Qwen2-MoE)."""
    bias: bool = False
    """Biases on router and expert matrices (gpt-oss)."""
    latent_norm: bool = False
    """A norm on the combined output of latent experts (Kimi-K3)."""
    router_mlp: RouterMLP | None = None
    """None: the router is one matrix."""

    @property
    def shared_width(self) -> int:
        """Intermediate width of all shared experts together."""
        return self.n_shared_experts * (self.d_shared_expert or self.d_expert)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.n_experts:
            raise InvalidInputError(
                f"top_k is {self.top_k} but the layer has {self.n_experts} experts",
                allowed=f"1 <= top_k <= {self.n_experts}",
                fix=f"top_k = {self.n_experts}",
            )
        return self


FFN = Annotated[DenseFFN | MoEFFN, Field(discriminator="kind")]


class Layer(Frozen):
    """One block of the residual stream: a token mixer, a feed-forward part, or both (hybrid models have either)."""

    mixer: Mixer | None
    ffn: FFN | None


class Routing(Frozen):
    """How tokens choose experts and how the load is kept balanced. The names are registry keys of ``proxies.model``."""

    router: str = "softmax_topk"
    """``softmax_topk`` (softmax, then top-k), ``topk_softmax``, ``sigmoid``, ``random``."""
    balancing: str = "aux_loss"
    """``aux_loss``, ``loss_free`` (bias on the selection), ``none``."""
    balance_scope: Literal["micro", "global"] = "global"
    """Whether the load is balanced inside every micro-batch or over the whole batch."""
    balance_coefficient: float = Field(default=0.01, ge=0)
    """Weight of the auxiliary loss, or step of the selection bias for ``loss_free``."""
    z_loss_coefficient: float = Field(default=1e-3, ge=0)
    normalise_gates: bool = True
    """Whether the ``top_k`` gates of a token sum to one (softmax_topk and sigmoid)."""


class Architecture(Frozen):
    """A decoder-only language model, complete enough to count it, to build it and to export it."""

    name: str = ""
    d_model: PositiveInt
    vocab_size: PositiveInt
    seq_len: PositiveInt
    layers: tuple[Layer, ...] = Field(min_length=1)
    tied_embeddings: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    """LayerNorm with a bias in place of RMSNorm (Phi-3.5-MoE)."""
    post_norm: bool = False
    """A second norm after every mixer and FFN (Grok-1)."""
    hyper_connections: PositiveInt | None = None
    """Parallel residual streams that learned matrices mix (DeepSeek-V4); None: one plain residual."""
    residual_scaling: bool = False
    """A scale and a bias on both summands of every residual addition (ZAYA)."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    routing: Routing = Routing()

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def moe_layers(self) -> tuple[MoEFFN, ...]:
        """The routed feed-forward parts, from the input up; empty for a dense model."""
        return tuple(layer.ffn for layer in self.layers if isinstance(layer.ffn, MoEFFN))
