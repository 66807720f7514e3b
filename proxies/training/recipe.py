"""The training recipe: everything besides design, scale and seed that changes what a proxy's loss is.

**Why the rules do not see the horizon.** A trunk at constant learning rate serves every token horizon (see
:mod:`moe_search.proxies.training.schedule`), so neither its learning rate nor its batch may depend on the horizon at
which it is later cut: they are functions of the architecture alone. The published laws have tokens in them (Step law:
rate ~ N^-0.71 D^0.31, batch ~ D^0.57; DeepSeek and Ling: powers of N·D); here ``tokens`` stands for a reference
horizon, ``reference_tokens_per_parameter * n_active``, the same for all horizons of a ladder. What that costs is
measured in ``experiments/reproductions/learning_rate_sweep``: over a fourfold horizon the best rate of a constant-rate
trunk falls by a factor 1.4, and one rate for both costs less than 0.01 nats a token.

References:
    Step law: Li et al. 2025, "Predictable Scale: Part I" (2503.04715).
    Fewer tokens an expert, lower rate: Ludziejewski et al. 2025, "Joint MoE Scaling Laws" (2502.05172):
    ``rate = exp(8.39 - 0.81 ln n_active - 0.25 ln E)``.
    Width-aware rates: Yang et al. 2022, "Tensor Programs V" (2203.03466); see ``proxies.model``.
"""

import hashlib
import math
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen

Float32Matmul = Literal["exact", "onednn"]
"""How float32 matrix products are computed on a CPU; see ``proxies.training.precision``."""
ADDED_LATER = ("optimizer", "muon_experts", "muon_momentum", "float32_matmul", "compile")
"""Fields that do not count in the fingerprint while they have their default: a recipe keeps the one it had without."""


class LearningRateRule(Frozen):
    """``rate = base · (n_active / N0)^a · (n_experts / E0)^b · (tokens / D0)^c · (batch / B0)^d``, fitted on a sweep.

    The sweep and its fit are in ``experiments/reproductions/learning_rate_sweep``; the centre (N0, E0, D0, B0) is its
    middle, so ``base`` is the best rate there. The rate is that of a model of the base width;
    ``proxies.model.parameter_groups`` turns it into a rate for every parameter.
    """

    base: PositiveFloat = 1.167e-2
    n_active_exponent: float = 0.039
    n_experts_exponent: float = -0.067
    tokens_exponent: float = -0.265
    batch_exponent: float = 0.445
    n_active_centre: PositiveFloat = 2.0**18
    """Active parameters without embeddings."""
    n_experts_centre: PositiveFloat = 8.0
    """Routed experts of a MoE layer; a dense layer counts as one."""
    tokens_centre: PositiveFloat = 2.0**19
    """Training tokens."""
    batch_centre: PositiveFloat = 2048.0
    """Tokens of one step."""

    def __call__(self, *, n_active: float, n_experts: float, tokens: float, batch: float) -> float:
        """Return the peak rate of ``n_active`` parameters on ``tokens`` tokens in steps of ``batch`` tokens."""
        return self.base * math.exp(
            self.n_active_exponent * math.log(n_active / self.n_active_centre)
            + self.n_experts_exponent * math.log(max(n_experts, 1.0) / self.n_experts_centre)
            + self.tokens_exponent * math.log(tokens / self.tokens_centre)
            + self.batch_exponent * math.log(batch / self.batch_centre)
        )


class BatchRule(Frozen):
    """``batch = coefficient · tokens^exponent`` tokens (Step law), between bounds, rounded to a power of two.

    Powers of two make ladders of power-of-two horizons exact numbers of steps. The lower bound is there because the
    law asks for a few hundred tokens at the smallest proxies, where a step is all overhead.
    """

    coefficient: PositiveFloat = 0.58
    exponent: float = 0.571
    minimum: PositiveInt = 2048
    """Tokens."""
    maximum: PositiveInt = 2**22
    """Tokens."""

    def __call__(self, *, tokens: float) -> int:
        """Return the batch in tokens for a horizon of ``tokens`` tokens."""
        wanted = min(max(self.coefficient * tokens**self.exponent, self.minimum), self.maximum)
        return int(2 ** round(math.log2(wanted)))


class TrainingRecipe(Frozen):
    """How every proxy of a campaign is trained and measured."""

    learning_rate: PositiveFloat | None = None
    """Peak learning rate; None: by ``learning_rate_rule``."""
    learning_rate_rule: LearningRateRule = LearningRateRule()
    batch_tokens: PositiveInt | None = None
    """Tokens of one optimiser step, the same along the whole trunk; None: by ``batch_rule``."""
    batch_rule: BatchRule = BatchRule()
    reference_tokens_per_parameter: PositiveFloat = 2.0
    """Tokens an active parameter at which both rules are evaluated, whatever the horizons are."""
    micro_batch_tokens: PositiveInt | None = None
    """Tokens of one forward pass: a larger batch accumulates gradients; None: the whole batch at once."""

    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up at the start of the trunk."""
    decay_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of a horizon's tokens in its decay branch."""
    decay_shape: Literal["sqrt", "linear"] = "sqrt"
    """How the rate falls to zero: ``1 - sqrt(t)`` or ``1 - t`` for t from 0 to 1 over the branch."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: for the matrices of attention and of dense and shared feed-forward parts; AdamW for everything else.
    Learning rates are meant for either; the rule's constants were fitted with AdamW."""
    muon_experts: bool = False
    """Muon for the routed experts' matrices too. An update then costs 15 to 70 times as much as AdamW's."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    embedding_rate: PositiveFloat = 30.0
    """Learning rate of the embedding over that of matrices at the reference width."""
    head_rate: PositiveFloat = 5.0
    """The same of the head, or of a matrix that is embedding and head."""
    weight_decay: float = Field(default=0.1, ge=0)
    """A step shrinks decaying weights by ``learning rate * weight_decay``, whatever factors their own rate has."""
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: PositiveFloat = 1e-8
    gradient_clip: PositiveFloat = 1.0
    """Largest norm of the gradient of all parameters together."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: one CUDA device where there is one, else the CPU. A proxy runs on one device; workers share a node."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 autocast with fp32 weights on CUDA, fp32 on the CPU."""
    float32_matmul: Literal["auto", Float32Matmul] = "auto"
    """Float32 products on a CPU: ``exact`` is torch's own way, ``onednn`` is faster on some CPUs and refused where it
    would round; ``auto`` decides when a proxy is begun, and a resumed one keeps to that."""
    compile: bool = False
    """``torch.compile`` of the forward and backward pass. The first step of each architecture takes tens of seconds
    more, so it is for long runs on a GPU. Losses are not the same bits as without."""
    backend: str = "auto"
    """Backend of the expert kernels."""
    threads: PositiveInt = 1
    """CPU threads; more than one gives up bit-for-bit repeatability across machines, not across runs."""

    evaluation_tokens: PositiveInt = 8192
    """Held-out tokens a domain that every horizon is measured on; a domain that has fewer gives all."""
    evaluation_split: Literal["val", "test"] = "val"

    divergence_margin: PositiveFloat = 1.0
    """Nats a token that the smoothed training loss may lie above the unigram bound after warm-up."""

    checkpoint_seconds: float = Field(default=10.0, ge=0)
    """Time between checkpoints: the most work that a kill can cost. It changes no result and is not hashed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidInputError(
                f"betas is {self.betas}", where="training.betas", allowed="0 <= beta < 1", fix="(0.9, 0.95)"
            )
        if self.muon_experts and self.optimizer != "muon":
            raise InvalidInputError(
                "muon_experts is set, but Muon is not used",
                where="training.muon_experts",
                allowed="false with optimizer: adamw",
                fix="optimizer: muon",
            )
        return self

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify everything in the recipe that can change a result."""
        fields = type(self).model_fields
        unset = {name for name in ADDED_LATER if getattr(self, name) == fields[name].default}
        text = self.model_dump_json(exclude={"checkpoint_seconds", *unset})
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def learning_rate(recipe: TrainingRecipe, *, n_active: int, n_experts: float, batch: int) -> float:
    """Return the peak learning rate of a trunk.

    Args:
        recipe: holds the rule, or the fixed rate.
        n_active: active parameters without embeddings.
        n_experts: routed experts a MoE layer, averaged over MoE layers; 0 for a dense model.
        batch: tokens of one optimiser step.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    reference = recipe.reference_tokens_per_parameter * n_active
    return recipe.learning_rate_rule(n_active=n_active, n_experts=n_experts, tokens=reference, batch=batch)


def batch_tokens(recipe: TrainingRecipe, *, n_active: int, seq_len: int) -> int:
    """Return the tokens of one optimiser step: a whole number of sequences, at least one.

    Args:
        recipe: holds the rule, or the fixed batch.
        n_active: active parameters without embeddings.
        seq_len: tokens of one sequence.
    """
    wanted = recipe.batch_tokens
    if wanted is None:
        wanted = recipe.batch_rule(tokens=recipe.reference_tokens_per_parameter * n_active)
    return max(1, round(wanted / seq_len)) * seq_len
