"""Token mixers: what a layer does along the sequence.

Proxies are trained with grouped-query attention; the others exist so that published models are counted exactly. A new
mixer is a class here: its sizes, and the four sums that :mod:`moe_search.spaces.accounting` asks of it.
"""

from abc import abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen


def causal_keys(seq_len: int, window: int | None = None) -> float:
    """Return the keys that a query sees under a causal mask, averaged over a sequence of ``seq_len`` tokens.

    Query t (from 1) sees min(t, window) keys: (S + 1) / 2 on average without a window.
    """
    reach = min(seq_len, window or seq_len)
    return reach - reach * (reach - 1) / (2 * seq_len)


class TokenMixer(Frozen):
    """The sums that every mixer knows about itself."""

    @abstractmethod
    def matrices(self, d_model: int) -> int:
        """Return the entries of all projection matrices: parameters, and multiply-adds a token."""

    @abstractmethod
    def vectors(self, d_model: int) -> int:
        """Return the other parameters: biases, norm gains, sinks, decays, short convolutions."""

    @abstractmethod
    def sequence_flops(self, seq_len: int) -> float:
        """Return the forward FLOPs a token spent on other tokens (scores and values, state updates), sequence mean."""

    @abstractmethod
    def activations(self, d_model: int) -> int:
        """Return the numbers a token keeps for the backward pass (attention weights are recomputed)."""

    @abstractmethod
    def cache(self) -> int:
        """Return the numbers a token leaves in the cache at inference."""


class GroupedQueryAttention(TokenMixer):
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

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.n_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys together; the values are as wide."""
        return self.n_kv_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v and output projections, and the output gate."""
        return d_model * ((2 + self.output_gate) * self.query_width + 2 * self.key_width)

    def vectors(self, d_model: int) -> int:
        """Return biases, query and key norm gains, sinks."""
        return (
            self.bias * (self.query_width + 2 * self.key_width)
            + self.output_bias * d_model
            + self.qk_norm * 2 * self.head_dim
            + self.sinks * self.n_heads
        )

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of q·k and of the weighted values."""
        return 4.0 * self.query_width * causal_keys(seq_len, self.window)

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q, k, v, and the attention's output."""
        return 2 * d_model + (2 + self.output_gate) * self.query_width + 2 * self.key_width

    def cache(self) -> int:
        """Return the width of keys and values."""
        return 2 * self.key_width

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
