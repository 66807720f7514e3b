"""What a recommendation is: the target it keeps to, the best choice, its equals, and how far to trust it."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveFloat, PositiveInt

from moe_search.spaces.architecture import Architecture
from moe_search.spaces.design import Design
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.resolve import Realised

MOST_CHOICES = 12
"""Near-optimal candidates that are listed."""


def _pairs(amounts: object) -> object:
    return tuple(amounts.items()) if isinstance(amounts, Mapping) else amounts


Amounts = Annotated[tuple[tuple[str, PositiveFloat], ...], BeforeValidator(_pairs), PlainSerializer(dict)]
"""A number for each name: a mapping in files, pairs in here, so that it is hashable."""


class Target(Frozen):
    """What the full-scale model must keep to."""

    train_flops: PositiveFloat
    """Forward and backward FLOPs; with ``inference_tokens`` it pays for training and inference together."""
    memory_gb: PositiveFloat | None = None
    """1e9 bytes of one replica at inference: weights in bfloat16 and the cache of ``cache_tokens``."""
    max_total: PositiveInt | None = None
    """Most parameters in all, with embeddings."""
    max_tokens: PositiveInt | None = None
    """Most training tokens (the data there are)."""
    unique_tokens: Amounts | None = None
    """Different tokens of each domain at full scale, of which more are repetition; more than enough of those that are
    not named."""
    inference_tokens: float | None = Field(default=None, ge=0)
    """Tokens that will be processed after training, at forward FLOPs each."""
    cache_tokens: PositiveInt = 16_384
    """Tokens in the inference cache, over all sequences served at once."""


class Choice(Frozen):
    """One candidate at one size, its best unless said otherwise."""

    design: Design
    architecture: Architecture
    realised: Realised
    tokens: int
    train_flops: float
    loss: float
    """Predicted, in the predictor's unit (bits a byte)."""
    low95: float
    high95: float
    probability_best: float
    """Share of the joint draws in which no other candidate at its best size is better."""
    difference: float
    """Predicted loss minus that of the best choice."""
    difference_low95: float
    difference_high95: float
    """95 % interval of the difference, in joint draws: what both share cancels."""
    overlap_80: bool
    """Whether the 80 % interval of the paired difference to the best holds zero."""
    overlap_95: bool
    inference_gb: float
    inference_flops: float
    """Forward FLOPs a token."""
    training_gb: float
    """Weights, gradients, optimiser and the activations of one sequence, on one device without sharding."""


class Recommendation(Frozen):
    """The best choice, its equals, and how far to trust it."""

    target: Target
    best: Choice
    near_optimal: tuple[Choice, ...]
    """Candidates whose 95 % interval of the difference to the best holds zero, best first; the best is one of them."""
    near_optimal_total: int
    """How many there are; the list holds at most ``MOST_CHOICES``."""
    cheaper: tuple[Choice, ...]
    """What less memory or less compute at inference would cost: the front of loss, ``inference_gb`` and
    ``inference_flops`` beyond the best choice, least loss first, thinned, at any of the sizes that were tried."""
    candidates: int
    infeasible: int
    """Candidates that fit no size, and do not count among ``candidates``."""
    constraint: str
    """What was held fixed and what binds, in words."""
    binding: tuple[str, ...]
    """Names of the target's fields that bind."""
    extrapolation: dict[str, float]
    """``n_active``, ``tokens``, ``train_flops`` of the best over the largest observed run's."""
    warnings: tuple[str, ...]
