"""The router in its obvious form, for any device and floating type: what the fast backend is compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.passes import count_pass
from moe_search.kernels.router.routed import Routed


def expert_usage(expert_index: Tensor, gates: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Return (n_experts,) assignments, int64, and (n_experts,) sums of gates, float64, without gradient."""
    experts = expert_index.flatten()
    counts = experts.new_zeros(n_experts).scatter_add_(0, experts, torch.ones_like(experts))
    mass = gates.detach().flatten().double()
    return counts, mass.new_zeros(n_experts).scatter_add_(0, experts, mass)


def reference_route(
    x: Tensor,
    weight: Tensor,
    selection_bias: Tensor | None,
    *,
    top_k: int,
    sigmoid: bool,
    normalise_gates: bool,
    learns: bool,
) -> Routed:
    """Return the decisions; arguments as in :func:`moe_search.kernels.router.route`, already checked."""
    count_pass("router", "reference")
    with torch.set_grad_enabled(learns):
        dtype = torch.promote_types(x.dtype, torch.float32)
        logits = functional.linear(x.to(dtype), weight.to(dtype))
        scores = logits.sigmoid() if sigmoid else logits.softmax(dim=-1)
        biased = scores.detach() if selection_bias is None else scores.detach() + selection_bias
        experts = biased.topk(top_k, dim=-1).indices
        gates = scores.gather(-1, experts)
        if normalise_gates:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        distribution = scores / scores.sum(dim=-1, keepdim=True) if sigmoid else scores
        square = None if sigmoid else logits.logsumexp(dim=-1).square().mean()
        counts, gate_mass = expert_usage(experts, gates, len(weight))
        return Routed(experts, gates, counts, gate_mass, distribution.mean(dim=0), square)
