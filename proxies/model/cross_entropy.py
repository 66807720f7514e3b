"""Output head and cross-entropy in one, in chunks of tokens: the logits of a batch never exist as a whole.

Logits are the largest tensor of a small model (2048 tokens x 4096 words in float32: 32 MiB, and as much again for
their softmax and its gradient). The gradient of the summed loss with respect to the logits is ``softmax - onehot``,
known as soon as the logits are, so the chunk's share of both gradients is formed at once and the chunk is forgotten:
three matrix products, none repeated (Liger, arXiv 2410.10989, section 3.2). Only the sum, hence one scale for all
tokens, can be differentiated.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK_ENTRIES = 2**20
"""Logits in flight at once: 4 MiB in float32."""


class SummedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of ``-log softmax(h W^T)[target]``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum (a scalar) and the tokens' losses (tokens,), which cannot be differentiated."""
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        matrix = weight.to(hidden.dtype)
        nats = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learns else None
        grad_weight = torch.zeros_like(weight) if learns else None
        size = max(CHUNK_ENTRIES // len(weight), 1)
        for start in range(0, len(hidden), size):
            chunk = slice(start, start + size)
            h, target = hidden[chunk], targets[chunk, None]
            log_p = functional.log_softmax((h @ matrix.T).to(nats.dtype), dim=-1)
            nats[chunk] = -log_p.gather(1, target).squeeze(1)
            if grad_hidden is not None and grad_weight is not None:
                grad_logits = log_p.exp_()
                grad_logits.scatter_add_(1, target, grad_logits.new_full(target.shape, -1.0))
                grad_logits = grad_logits.to(hidden.dtype)
                torch.mm(grad_logits, matrix, out=grad_hidden[chunk])
                if weight.dtype == hidden.dtype:
                    grad_weight.addmm_(grad_logits.T, h)
                else:
                    grad_weight += grad_logits.T @ h
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients formed in the forward pass."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_sum.to(grad_hidden.dtype), grad_weight * grad_sum, None


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats, and every token's.

    Args:
        hidden: (tokens, d_model); the products run in its type, softmax and loss in float32 at least.
        weight: (vocab_size, d_model).
        targets: (tokens,) int64.

    Returns:
        The sum, a differentiable scalar; and (tokens,) losses without gradient.
    """
    total, nats = SummedCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return total, nats
