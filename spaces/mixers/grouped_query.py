"""Grouped-query attention, and the sparse indexer that some models put before it."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixers.base import TokenMixer, causal_keys


class SparseIndexer(Frozen):
    """A small scorer that chooses the keys a query attends to (DeepSeek-V3.2, GLM-5, MiniMax-M3)."""

    n_heads: PositiveInt
    head_dim: PositiveInt
    top_k: PositiveInt
    """Keys that a query attends to."""
    query_rank: PositiveInt | None = None
    """Width of the query latent that it reads (MLA); None: it reads the hidden state."""
    head_weights: bool = False
    """A learned projection weighs its heads (not in MiniMax-M3)."""

    def matrices(self, d_model: int) -> int:
        """Return query, key and head-weight projections."""
        queries = (self.query_rank or d_model) * self.n_heads * self.head_dim
        return queries + d_model * (self.head_dim + self.head_weights * self.n_heads)

    def vectors(self) -> int:
        """Return the norm parameters: query and key gains, or a key gain and bias."""
        return 2 * self.head_dim

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of scoring all earlier keys."""
        return 2.0 * self.n_heads * self.head_dim * causal_keys(seq_len)


class GroupedQueryAttention(TokenMixer):
    """Softmax attention with ``n_kv_heads`` key/value heads shared by ``n_heads`` queries (multi-head when equal)."""

    kind: Literal["gqa"] = "gqa"
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt
    qk_norm: bool = False
    qk_norm_whole: bool = False
    """The norms span all heads together (OLMoE, MiniMax-M2) instead of one head."""
    bias: bool = False
    """Biases on the query, key and value projections (and on the output projection for gpt-oss: ``output_bias``)."""
    output_bias: bool = False
    output_gate: bool = False
    """A gate as wide as the queries on the attention output (Qwen3-Next)."""
    sinks: bool = False
    """One learned attention-sink logit a head (gpt-oss)."""
    window: PositiveInt | None = None
    """Sliding window in tokens; None: full causal attention."""
    reuses_keys: bool = False
    """Takes keys and values of the layer below (cross-layer attention of Hunyuan-Large)."""
    indexer: SparseIndexer | None = None

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.n_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys together; the values are as wide."""
        return self.n_kv_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v and output projections, the output gate, the indexer."""
        keys = 0 if self.reuses_keys else 2 * self.key_width
        indexer = self.indexer.matrices(d_model) if self.indexer else 0
        return d_model * ((2 + self.output_gate) * self.query_width + keys) + indexer

    def vectors(self, d_model: int) -> int:
        """Return biases, query and key norm gains, sinks."""
        normed = self.query_width + self.key_width if self.qk_norm_whole else 2 * self.head_dim
        return (
            self.bias * ((1 + self.output_gate) * self.query_width + (0 if self.reuses_keys else 2 * self.key_width))
            + self.output_bias * d_model
            + self.qk_norm * normed
            + self.sinks * self.n_heads
            + (self.indexer.vectors() if self.indexer else 0)
        )

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of q·k and of the weighted values, and of the indexer."""
        reach = self.indexer.top_k if self.indexer else self.window
        scored = self.indexer.sequence_flops(seq_len) if self.indexer else 0.0
        return 4.0 * self.query_width * causal_keys(seq_len, reach) + scored

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q, k, v, and the attention's output."""
        return 2 * d_model + (2 + self.output_gate) * self.query_width + 2 * self.key_width

    def cache(self, seq_len: int) -> float:
        """Return keys and values (of the window), and the indexer's keys."""
        if self.reuses_keys:
            return 0.0
        indexed = self.indexer.head_dim * seq_len if self.indexer else 0
        return 2.0 * self.key_width * min(seq_len, self.window or seq_len) + indexed

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
