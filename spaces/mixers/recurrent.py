"""Mixers with a state of fixed size instead of a growing cache: delta rules, lightning attention, Mamba-2.

Their FLOPs along the sequence are those of the recurrence, the least that computes the layer; chunks cost more.
"""

from typing import Literal

from pydantic import PositiveInt

from moe_search.spaces.mixers.base import TokenMixer


class GatedDeltaNet(TokenMixer):
    """Gated delta rule with a scalar decay a head (arXiv 2412.06464), as in Qwen3-Next.

    S ← a S + b k (v - k·S)ᵀ, out = q·S: three products with the state (d_key x d_value) of each head.
    """

    kind: Literal["gated_delta"] = "gated_delta"
    n_key_heads: PositiveInt
    n_value_heads: PositiveInt
    key_head_dim: PositiveInt
    value_head_dim: PositiveInt
    kernel: PositiveInt = 4
    """Taps of the short convolution on q, k and v."""

    @property
    def key_width(self) -> int:
        """Width of all keys together; the queries are as wide."""
        return self.n_key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        """Width of all values together; the output gate is as wide."""
        return self.n_value_heads * self.value_head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v, output gate, decay and write strength, output."""
        return d_model * (2 * self.key_width + 3 * self.value_width + 2 * self.n_value_heads)

    def vectors(self, d_model: int) -> int:
        """Return the convolution, decay parameters of each head, the gated norm's gain."""
        convolution = (2 * self.key_width + self.value_width) * self.kernel
        return convolution + 2 * self.n_value_heads + self.value_head_dim

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of reading, writing and querying the state."""
        return 6.0 * self.value_width * self.key_head_dim

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q, k, v before and after the convolution, gate and output."""
        return 2 * d_model + 2 * (2 * self.key_width + self.value_width) + 2 * self.value_width

    def cache(self, seq_len: int) -> float:
        """Return the state and the convolution's past."""
        return float(self.value_width * self.key_head_dim + (2 * self.key_width + self.value_width) * (self.kernel - 1))


class KimiDeltaAttention(TokenMixer):
    """Gated delta rule with a decay for every key channel (Kimi Linear, arXiv 2510.26692)."""

    kind: Literal["kda"] = "kda"
    n_heads: PositiveInt
    head_dim: PositiveInt
    kernel: PositiveInt = 4
    full_rank_gate: bool = False
    """Whether the output gate is one matrix (Kimi-K3) instead of a product through ``head_dim``."""

    @property
    def width(self) -> int:
        """Width of all heads together."""
        return self.n_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v, output, forget gate (low rank), write strength and output gate."""
        low_rank = self.head_dim * (d_model + self.width)
        gate = d_model * self.width if self.full_rank_gate else low_rank
        return d_model * (4 * self.width + self.n_heads) + low_rank + gate

    def vectors(self, d_model: int) -> int:
        """Return the convolution, decay parameters of channels and heads, the gated norm's gain."""
        return 3 * self.width * self.kernel + self.width + self.n_heads + self.head_dim

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of reading, writing and querying the state."""
        return 6.0 * self.width * self.head_dim

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q, k, v before and after the convolution, decay, gate and output."""
        return 2 * d_model + 9 * self.width

    def cache(self, seq_len: int) -> float:
        """Return the state and the convolution's past."""
        return float(self.width * self.head_dim + 3 * self.width * (self.kernel - 1))


class LightningAttention(TokenMixer):
    """Linear attention with a fixed decay a head and an output gate (MiniMax-01, arXiv 2501.08313)."""

    kind: Literal["lightning"] = "lightning"
    n_heads: PositiveInt
    head_dim: PositiveInt

    @property
    def width(self) -> int:
        """Width of all heads together."""
        return self.n_heads * self.head_dim

    def matrices(self, d_model: int) -> int:
        """Return q, k, v, output gate and output."""
        return 5 * d_model * self.width

    def vectors(self, d_model: int) -> int:
        """Return the gain of the norm over the output."""
        return self.width

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of writing and querying the state (d x d a head)."""
        return 4.0 * self.width * self.head_dim

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, q, k, v, gate, and the output before and after its norm."""
        return 2 * d_model + 6 * self.width

    def cache(self, seq_len: int) -> float:
        """Return the state."""
        return float(self.width * self.head_dim)


class Mamba2(TokenMixer):
    """State-space duality layer (arXiv 2405.21060), as in Nemotron-H."""

    kind: Literal["mamba2"] = "mamba2"
    n_heads: PositiveInt
    head_dim: PositiveInt
    n_groups: PositiveInt
    """Groups of heads that share input and output matrices B and C."""
    state_size: PositiveInt
    kernel: PositiveInt = 4
    convolution_bias: bool = True
    bias: bool = False
    """Biases on the input and output projections."""

    @property
    def width(self) -> int:
        """Width of all heads together."""
        return self.n_heads * self.head_dim

    @property
    def convolution_width(self) -> int:
        """Channels of the short convolution: the input, B and C."""
        return self.width + 2 * self.n_groups * self.state_size

    def matrices(self, d_model: int) -> int:
        """Return the projection to gate, input, B, C and step sizes, and the output."""
        return d_model * (self.width + self.convolution_width + self.n_heads) + self.width * d_model

    def vectors(self, d_model: int) -> int:
        """Return the convolution, three numbers a head (step bias, decay, skip), the gated norm's gain, biases."""
        biases = self.bias * (self.width + self.convolution_width + self.n_heads + d_model)
        return self.convolution_width * (self.kernel + self.convolution_bias) + 3 * self.n_heads + self.width + biases

    def sequence_flops(self, seq_len: int) -> float:
        """Return the FLOPs of writing and reading the state."""
        return 4.0 * self.width * self.state_size

    def activations(self, d_model: int) -> int:
        """Return the norm's input and output, gate, the convolution's input and output, and the output twice."""
        return 2 * d_model + self.width + 2 * self.convolution_width + 2 * self.width

    def cache(self, seq_len: int) -> float:
        """Return the state and the convolution's past."""
        return float(self.width * self.state_size + self.convolution_width * (self.kernel - 1))
