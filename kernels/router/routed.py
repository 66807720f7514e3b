"""What a router has decided, and the sums over tokens that balancing and reports are made of."""

from typing import NamedTuple

from torch import Tensor


class Routed(NamedTuple):
    """The experts of every token."""

    expert_index: Tensor
    """(tokens, top_k) int64, distinct within a token, the highest score first."""
    gates: Tensor
    """(tokens, top_k), float32 at least: weight of each expert's output."""
    counts: Tensor
    """(n_experts,) int64, assignments."""
    gate_mass: Tensor
    """(n_experts,) float64, sum of the gates, without gradient."""
    mean_probability: Tensor
    """(n_experts,), mean over tokens of the distribution over experts: ``p`` of the auxiliary loss. A sigmoid's
    distribution is its scores over their sum."""
    mean_square_log_partition: Tensor | None
    """Scalar, mean over tokens of the squared log of the softmax denominator: the z-loss; None without a softmax."""
