"""Routings to time a layer on: new at every step, unevenly loaded as a real router's, or with one hot expert."""

import torch
from torch import Tensor

POPULARITY_SD = 0.2
"""Of the experts' biases in logits: the hottest of 8 to 256 experts has 1.4 to 2.9 times the mean load."""


def draw_routing(
    tokens: int, n_experts: int, top_k: int, *, generator: torch.Generator, skew: float | None = None
) -> tuple[Tensor, Tensor]:
    """Draw experts and gates.

    Args:
        tokens: how many.
        n_experts: of the layer.
        top_k: experts a token.
        generator: on the CPU.
        skew: load of expert 0 over the mean, with a quarter of the experts empty; None: random popularities. More than
            ``n_experts / top_k`` cannot be, as a token passes an expert once at the most.

    Returns:
        Experts (tokens, top_k), int64; gates (tokens, top_k), float32, positive, summing to one.
    """
    logits = torch.randn(tokens, n_experts, generator=generator)
    if skew is None:
        logits += POPULARITY_SD * torch.randn(n_experts, generator=generator)
    else:
        n_empty = max(min(n_experts // 4, n_experts - top_k - 1), 0)
        if n_empty:
            logits[:, -n_empty:] = -torch.inf
        hot = torch.rand(tokens, generator=generator) < skew * top_k / n_experts
        logits[:, 0] = torch.where(hot, 100.0, -100.0)
    chosen = logits.topk(top_k, dim=-1)
    gates = torch.randn(tokens, top_k, generator=generator).softmax(dim=-1)
    return chosen.indices, gates


def load(expert_index: Tensor, n_experts: int) -> dict[str, float]:
    """Return the load of the hottest expert over the mean, and how many experts have none."""
    counts = torch.bincount(expert_index.flatten().cpu(), minlength=n_experts).double()
    return {"max_over_mean": float(counts.max() / counts.mean()), "empty_experts": float((counts == 0).sum())}
