"""What passes between a router, the balancing of its load, and the experts."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from moe_search.kernels.router import Routed, expert_usage


class TokenContext(NamedTuple):
    """What a router may know of a token besides its hidden state."""

    token_ids: Tensor
    """(tokens,) int64."""
    positions: Tensor
    """(tokens,) int64, place in the sequence."""


class Decision(Protocol):
    """What a router decided: an ``Assignment``, or what :func:`moe_search.kernels.router.route` returns."""

    @property
    def expert_index(self) -> Tensor:
        """(tokens, top_k) int64, distinct within a token."""

    @property
    def gates(self) -> Tensor:
        """(tokens, top_k) float32: weight of each expert's output."""

    @property
    def mean_probability(self) -> Tensor | None:
        """(n_experts,): ``p`` of the auxiliary loss. None where nothing is learned."""

    @property
    def mean_square_log_partition(self) -> Tensor | None:
        """Scalar: the z-loss; None without a softmax."""


class Assignment(NamedTuple):
    """The experts of every token, as a router in PyTorch tells them."""

    expert_index: Tensor
    """(tokens, top_k) int64, distinct within a token."""
    gates: Tensor
    """(tokens, top_k) float32: weight of each expert's output."""
    distribution: Tensor | None
    """(tokens, n_experts) float32, each row a distribution over the experts: ``p`` of the auxiliary loss. None where
    nothing is learned."""
    log_partition: Tensor | None
    """(tokens,) log of the softmax denominator, which the z-loss keeps small; None without a softmax."""

    @property
    def mean_probability(self) -> Tensor | None:
        """(n_experts,), mean of ``distribution`` over tokens."""
        return None if self.distribution is None else self.distribution.mean(dim=0)

    @property
    def mean_square_log_partition(self) -> Tensor | None:
        """Scalar, mean over tokens of the squared ``log_partition``."""
        return None if self.log_partition is None else self.log_partition.square().mean()


@dataclass(frozen=True)
class RoutingStatistics:
    """How one layer used its experts, as sums over tokens, so that statistics of several batches add up."""

    counts: Tensor
    """(n_experts,) int64, assignments."""
    gate_mass: Tensor
    """(n_experts,) float64, sum of the gates."""

    @classmethod
    def of(cls, decision: Decision, n_experts: int) -> "RoutingStatistics":
        """Return the sums over the tokens of ``decision``, which the kernel has formed already."""
        if isinstance(decision, Routed):
            return cls(decision.counts, decision.gate_mass)
        return cls(*expert_usage(decision.expert_index, decision.gates, n_experts))

    def __add__(self, other: "RoutingStatistics") -> "RoutingStatistics":
        return RoutingStatistics(self.counts + other.counts, self.gate_mass + other.gate_mass)

    @property
    def load(self) -> Tensor:
        """(n_experts,) float64, each expert's share of the assignments."""
        return self.counts.double() / self.counts.sum()

    @property
    def load_imbalance(self) -> float:
        """Largest load over the mean load: 1 is balanced, ``n_experts / top_k`` is collapse."""
        return float(self.load.max()) * len(self.counts)

    @property
    def entropy(self) -> float:
        """Entropy of the mean gate distribution over ln(n_experts): 1 is uniform use, 0 one expert for all."""
        if len(self.counts) == 1:
            return 1.0
        share = self.gate_mass / self.gate_mass.sum()
        return float(torch.special.entr(share).sum()) / math.log(len(share))
