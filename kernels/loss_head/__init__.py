"""The output matrix and the cross-entropy of its logits, forward and backward, behind one function.

A backend is a function with the signature of :func:`~moe_search.kernels.loss_head.reference.reference_loss_head` and a
row in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.arguments import (
    check_axes,
    check_backend,
    check_below,
    check_beside,
    check_computed,
    check_finite,
    check_floating,
    chosen_backend,
)
from moe_search.kernels.backends import compiled_or, constant_in_graphs
from moe_search.kernels.loss_head.chunked import chunked_loss_head
from moe_search.kernels.loss_head.cpu import cpu_loss_head, library
from moe_search.kernels.loss_head.reference import reference_loss_head
from moe_search.kernels.passes import counted

__all__ = ["BACKENDS", "GroupSums", "backend_counts", "default_backend", "linear_cross_entropy", "sums_by_group"]


class Backend(Protocol):
    """One way to compute the loss; its arguments have been checked. ``learns``: gradients will be asked for."""

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor, *, learns: bool) -> tuple[Tensor, Tensor]: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {"reference": reference_loss_head, "chunked": chunked_loss_head, "cpu": cpu_loss_head}
)


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("loss_head", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    return compiled_or("chunked", library, device_type, dtype)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, backend: str = "auto", finite: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the summed loss ``sum_t -log softmax(hidden[t] @ weight.T)[targets[t]]`` in nats, and every token's.

    The sum is differentiable with respect to ``hidden`` and ``weight``. "chunked" and "cpu" form the gradients with
    the loss, unless gradients are off: what is only measured does not pay for them.

    Args:
        hidden: (tokens, d_model), float32, bfloat16 or float64. The matrix products run in its type and add up in
            float32 at least; softmax and loss are float32 at least.
        weight: (vocab_size, d_model), floating; cast to the type of ``hidden``, its gradient has its own.
        targets: (tokens,), int64, values in [0, vocab_size).
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Returns:
        The sum, a differentiable scalar; and (tokens,) losses without gradient.

    Raises:
        ValueError: an argument of the wrong shape, type, device or range, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    check_backend(backend, BACKENDS)
    _check(hidden, weight, targets)
    if not finite:
        check_finite(hidden=hidden, weight=weight)
    name = chosen_backend(backend, BACKENDS, default_backend, "hidden", hidden)
    learns = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        return BACKENDS[name](hidden, weight, targets, learns=learns)


class GroupSums(NamedTuple):
    """Losses added up by group, for example by the domain of a token's text."""

    nats: Tensor
    """(n_groups,) float64."""
    counts: Tensor
    """(n_groups,) int64, tokens."""


def sums_by_group(token_nats: Tensor, groups: Tensor, n_groups: int) -> GroupSums:
    """Add up ``token_nats`` (…) by ``groups`` (…), integers in [0, n_groups).

    A product with the groups' indicators: the same bits every time on every device, and no host that waits for one.

    Raises:
        ValueError: shapes that differ, or groups that are no integers; the message names the argument.
    """
    if groups.shape != token_nats.shape:
        raise ValueError(f"groups has shape {tuple(groups.shape)}; expected {tuple(token_nats.shape)} as token_nats")
    if groups.is_floating_point():
        raise ValueError(f"groups is {groups.dtype}; expected integers")
    member = functional.one_hot(groups.flatten().long(), n_groups)
    return GroupSums(token_nats.detach().flatten().double() @ member.double(), member.sum(dim=0))


def _check(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    check_axes("hidden", hidden, "(tokens, d_model)")
    check_axes("weight", weight, "(vocab_size, d_model)")
    check_beside("weight", weight, (len(weight), hidden.shape[1]), "hidden", hidden)
    check_beside("targets", targets, (len(hidden),), "hidden", hidden)
    check_computed("hidden", hidden)
    check_floating("weight", weight)
    if targets.dtype != torch.int64:
        raise ValueError(f"targets is {targets.dtype}; expected int64")
    if len(weight) == 0:
        raise ValueError("weight has no rows; a vocabulary has at least one")
    check_below("targets", targets, len(weight))
