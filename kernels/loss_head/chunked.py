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

from moe_search.kernels.passes import count_pass

CHUNK_ENTRIES = 2**18
"""Logits in flight at once on a CPU: 1 MiB in float32, which stays in a core's own cache."""
GPU_CHUNK_ENTRIES = 2**25
"""On another device: 128 MiB in float32, so that starting its kernels does not take longer than running them."""


class SummedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of ``-log softmax(h W^T)[target]``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, learns: bool) -> tuple[Tensor, Tensor]:  # noqa: FBT001
        """Return the sum (a scalar) and the tokens' losses (tokens,), which cannot be differentiated."""
        matrix = weight.to(hidden.dtype)
        nats = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if learns else None
        grad_weight = torch.zeros_like(weight) if learns else None
        entries = CHUNK_ENTRIES if hidden.device.type == "cpu" else GPU_CHUNK_ENTRIES
        size = max(entries // len(weight), 1)
        for start in range(0, len(hidden), size):
            chunk = slice(start, start + size)
            h, target = hidden[chunk], targets[chunk, None]
            log_p = (h @ matrix.T).to(nats.dtype).log_softmax(dim=-1)
            torch.neg(log_p.gather(1, target).squeeze(1), out=nats[chunk])
            if grad_hidden is not None and grad_weight is not None:
                p = log_p.exp_()
                grad_logits = p.scatter_add_(1, target, p.new_full((), -1.0).expand_as(target)).to(hidden.dtype)
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
        return grad_hidden * grad_sum.to(grad_hidden.dtype), grad_weight * grad_sum, None, None


def chunked_loss_head(hidden: Tensor, weight: Tensor, targets: Tensor, *, learns: bool) -> tuple[Tensor, Tensor]:
    """Return the summed loss and every token's; arguments as in ``linear_cross_entropy``, already checked."""
    count_pass("loss_head", "chunked")
    total, nats = SummedCrossEntropy.apply(hidden, weight, targets, learns)  # type: ignore[no-untyped-call]
    return total, nats
