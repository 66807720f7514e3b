"""Compressed convolutional attention (Zyphra, arXiv 2510.04476): attention inside a space narrower than the model."""

from typing import Literal

from pydantic import PositiveInt

from moe_search.spaces.mixers.base import TokenMixer, causal_keys


class ConvolutionalAttention(TokenMixer):
    """Queries and keys pass two short causal convolutions, per channel and per head; half the values are delayed."""

    kind: Literal["cca"] = "cca"
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt
    channel_kernel: PositiveInt = 2
    head_kernel: PositiveInt = 2

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.n_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys together; the values are as wide."""
        return self.n_kv_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v and output projections, and the convolution that mixes each head's channels."""
        convolution = (self.query_width + self.key_width) * self.head_dim * self.head_kernel
        return d_model * (2 * self.query_width + 2 * self.key_width) + convolution

    def vectors(self, d_model: int) -> int:
        """Return the per-channel convolution, both convolutions' biases, one key temperature a head."""
        return (self.query_width + self.key_width) * (self.channel_kernel + 2) + self.n_kv_heads

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of q·k and of the weighted values."""
        return 4.0 * self.query_width * causal_keys(seq_len)

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q and k before and after each convolution, v, and the output."""
        return 2 * d_model + 3 * (self.query_width + self.key_width) + self.key_width + self.query_width

    def cache(self, seq_len: int) -> float:
        """Return keys and values."""
        return 2.0 * self.key_width * seq_len
