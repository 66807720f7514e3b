"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

from typing import Literal

from pydantic import PositiveInt

from moe_search.spaces.mixers.base import TokenMixer, causal_keys
from moe_search.spaces.mixers.grouped_query import SparseIndexer


class LatentAttention(TokenMixer):
    """Keys and values are projected up from one latent a token, which alone is cached beside a shared rotary key."""

    kind: Literal["mla"] = "mla"
    n_heads: PositiveInt
    query_rank: PositiveInt | None = None
    """Width of the query latent; None: queries are projected directly."""
    kv_rank: PositiveInt
    """Width of the key/value latent."""
    nope_dim: PositiveInt
    """Width of a head's query and key without position."""
    rope_dim: PositiveInt
    """Width of the rotary part; its key is shared by all heads."""
    value_dim: PositiveInt
    """Width of a head's value."""
    bias: bool = False
    """Biases on the two down projections and on the output."""
    output_gate: bool = False
    """A gate as wide as the values on the attention output (Kimi-K3)."""
    indexer: SparseIndexer | None = None

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.n_heads * (self.nope_dim + self.rope_dim)

    @property
    def value_width(self) -> int:
        """Width of all values together."""
        return self.n_heads * self.value_dim

    def matrices(self, d_model: int) -> int:
        """Return the down and up projections of queries and of keys with values, the output, gate and indexer."""
        queries = self.query_rank * (d_model + self.query_width) if self.query_rank else d_model * self.query_width
        keys = d_model * (self.kv_rank + self.rope_dim) + self.kv_rank * self.n_heads * (self.nope_dim + self.value_dim)
        output = (1 + self.output_gate) * self.value_width * d_model
        return queries + keys + output + (self.indexer.matrices(d_model) if self.indexer else 0)

    def vectors(self, d_model: int) -> int:
        """Return the gains of the latents' norms, and biases."""
        biases = self.bias * ((self.query_rank or 0) + self.kv_rank + self.rope_dim + d_model)
        return (self.query_rank or 0) + self.kv_rank + biases + (self.indexer.vectors() if self.indexer else 0)

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of scores and weighted values in the expanded form that training uses."""
        keys = causal_keys(seq_len, self.indexer.top_k if self.indexer else None)
        scored = self.indexer.sequence_flops(seq_len) if self.indexer else 0.0
        return 2.0 * (self.query_width + self.value_width) * keys + scored

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, both latents, q, k, v, and the attention's output."""
        latents = (self.query_rank or 0) + self.kv_rank + self.rope_dim
        return 2 * d_model + latents + 2 * self.query_width + (2 + self.output_gate) * self.value_width

    def cache(self, seq_len: int) -> float:
        """Return the latent and the rotary key, and the indexer's keys."""
        return float(seq_len * (self.kv_rank + self.rope_dim + (self.indexer.head_dim if self.indexer else 0)))
