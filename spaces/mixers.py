"""Token mixers: what a layer does along the sequence.

Proxies are trained with grouped-query attention; the others exist so that published models are counted exactly. A new
mixer is a class here and a formula in :mod:`moe_search.spaces.accounting`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


class GroupedQueryAttention(Frozen):
    """Softmax attention with ``n_kv_heads`` key/value heads shared by ``n_heads`` queries (multi-head when equal)."""

    kind: Literal["gqa"] = "gqa"
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt
    qk_norm: bool = False
    bias: bool = False
    """Biases on the query, key and value projections (and on the output projection for gpt-oss: ``output_bias``)."""
    output_bias: bool = False
    output_gate: bool = False
    """A gate as wide as the queries on the attention output (Qwen3-Next)."""
    sinks: bool = False
    """One learned attention-sink logit a head (gpt-oss)."""
    window: PositiveInt | None = None
    """Sliding window in tokens; None: full causal attention."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            divisors = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.n_kv_heads))
            raise InvalidInputError(
                f"n_kv_heads is {self.n_kv_heads} but does not divide n_heads = {self.n_heads}",
                allowed=f"one of {divisors}",
                fix=f"n_kv_heads = {nearest}",
            )
        return self


Mixer = Annotated[GroupedQueryAttention, Field(discriminator="kind")]
