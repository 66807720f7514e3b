"""Compressed sparse and heavily compressed attention of DeepSeek-V4 (its report, section 2.3)."""

from typing import Literal

from pydantic import PositiveInt

from moe_search.spaces.mixers.base import TokenMixer, causal_keys


class CompressedAttention(TokenMixer):
    """One shared key-value head, a sliding window, and beside it every ``rate`` tokens compressed into one entry.

    ``heavy`` attends to all entries; ``sparse`` compresses overlapping blocks, and an indexer chooses ``index_top_k``
    of them; ``none`` has the window alone. The output projection is low-rank in ``output_groups`` groups of heads.
    """

    kind: Literal["compressed"] = "compressed"
    n_heads: PositiveInt
    head_dim: PositiveInt
    query_rank: PositiveInt
    output_groups: PositiveInt
    output_rank: PositiveInt
    """Width of each group's output latent."""
    window: PositiveInt
    compression: Literal["none", "heavy", "sparse"] = "none"
    rate: PositiveInt = 1
    """Tokens that one compressed entry stands for."""
    index_heads: PositiveInt = 1
    index_dim: PositiveInt = 1
    index_top_k: PositiveInt = 1

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.n_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return query latent and queries, the shared key-value, the grouped output, compressor and indexer."""
        attention = self.query_rank * (d_model + self.query_width) + d_model * self.head_dim
        output = self.output_rank * (self.query_width + self.output_groups * d_model)
        compressor = {"none": 0, "heavy": 2 * d_model * self.head_dim, "sparse": 4 * d_model * self.head_dim}
        indexer = 4 * d_model * self.index_dim + self.index_heads * (self.query_rank * self.index_dim + d_model)
        return attention + output + compressor[self.compression] + indexer * (self.compression == "sparse")

    def vectors(self, d_model: int) -> int:
        """Return norm gains, sinks, and the position biases of compressor and indexer."""
        compressor = {
            "none": 0,
            "heavy": (self.rate + 1) * self.head_dim,
            "sparse": (2 * self.rate + 1) * (self.head_dim + self.index_dim),
        }
        return self.query_rank + self.head_dim + self.n_heads + compressor[self.compression]

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs over the window and the compressed entries, and of the indexer's scores."""
        keys, scored = causal_keys(seq_len, self.window), 0.0
        entries = max(seq_len / self.rate, 1.0)
        if self.compression == "heavy":
            keys += causal_keys(entries)
        if self.compression == "sparse":
            keys += causal_keys(entries, self.index_top_k)
            scored = 2.0 * self.index_heads * self.index_dim * causal_keys(entries)
        return 4.0 * self.query_width * keys + scored

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, latents, q, the shared key-value, and the attention's output."""
        latents = self.query_rank + self.output_groups * self.output_rank
        return 2 * d_model + latents + 2 * self.query_width + self.head_dim

    def cache(self, seq_len: int) -> float:
        """Return the window's entries, the compressed entries, and the indexer's."""
        width = {"none": 0, "heavy": self.head_dim, "sparse": self.head_dim + self.index_dim}[self.compression]
        return self.head_dim * min(seq_len, self.window) + width * seq_len / self.rate
