"""The output head and its cross-entropy in their obvious form: what every fast backend is compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.passes import count_pass


def reference_loss_head(hidden: Tensor, weight: Tensor, targets: Tensor, *, learns: bool) -> tuple[Tensor, Tensor]:
    """Return ``sum_t -log softmax(h_t W^T)[target_t]`` and its terms, without gradient, from the whole logits.

    Works in any floating type (float64 for tests); the sum is differentiated by autograd, twice if need be.
    """
    count_pass("loss_head", "reference")
    with torch.set_grad_enabled(learns):
        logits = functional.linear(hidden, weight.to(hidden.dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = functional.cross_entropy(logits, targets, reduction="none")
        return nats.sum(), nats.detach()
