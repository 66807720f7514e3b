"""A router, from hidden states to experts, gates and the sums that balancing needs, behind one function.

A backend is a function with the signature of :func:`~moe_search.kernels.router.reference.reference_route` and a row in
``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.arguments import (
    check_axes,
    check_backend,
    check_beside,
    check_computed,
    check_finite,
    check_floating,
    chosen_backend,
)
from moe_search.kernels.backends import compiled_or, constant_in_graphs
from moe_search.kernels.passes import counted
from moe_search.kernels.router.cpu import cpu_route, library
from moe_search.kernels.router.reference import expert_usage, reference_route
from moe_search.kernels.router.routed import Routed

__all__ = ["BACKENDS", "SCORES", "Routed", "backend_counts", "default_backend", "expert_usage", "route"]

SCORES = ("softmax", "sigmoid")


class Backend(Protocol):
    """One way to route; its arguments have been checked. ``learns``: gradients will be asked for."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        selection_bias: Tensor | None,
        *,
        top_k: int,
        sigmoid: bool,
        normalise_gates: bool,
        learns: bool,
    ) -> Routed: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType({"reference": reference_route, "cpu": cpu_route})


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("router", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    return compiled_or("reference", library, device_type, dtype)


def route(
    x: Tensor,
    weight: Tensor,
    *,
    top_k: int,
    score: str = "softmax",
    normalise_gates: bool = False,
    selection_bias: Tensor | None = None,
    backend: str = "auto",
    finite: bool = False,
) -> Routed:
    """Let every token choose its experts: ``s = score(x @ weight.T)``, the ``top_k`` largest ``s + bias``, their ``s``.

    Logits are float32 at least, whatever the type of ``x`` and also under autocast. Gradients flow to ``x`` and
    ``weight`` through ``gates``, ``mean_probability`` and ``mean_square_log_partition``; the bias has none. Of equal
    scores "cpu" selects the lower index first, "reference" whichever ``torch.topk`` takes; NaN counts as the largest.

    Args:
        x: (tokens, d_model), float32, bfloat16 or float64.
        weight: (n_experts, d_model), floating.
        top_k: experts a token, from 1 to n_experts.
        score: "softmax" over all experts, or "sigmoid" for each by itself (DeepSeek-V3, arXiv 2412.19437).
        normalise_gates: divide a token's gates by their sum. With a softmax this is top-k-then-softmax (Mixtral, arXiv
            2401.04088): a softmax restricted to a subset is the softmax of the subset.
        selection_bias: (n_experts,) added to the scores for the selection only (arXiv 2408.15664); None: nothing. Minus
            infinity: an expert that nobody selects who has a choice.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Raises:
        ValueError: an argument of the wrong shape, type, device or range, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; known: {', '.join(SCORES)}")
    check_backend(backend, BACKENDS)
    _check(x, weight, selection_bias, top_k)
    if not finite:
        check_finite(x=x, weight=weight)
        if selection_bias is not None:
            check_finite(selection_bias=selection_bias.where(selection_bias != -math.inf, 0.0))
    name = chosen_backend(backend, BACKENDS, default_backend, "x", x)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    with torch.autocast(x.device.type, enabled=False):
        return BACKENDS[name](
            x,
            weight,
            selection_bias,
            top_k=top_k,
            sigmoid=score == "sigmoid",
            normalise_gates=normalise_gates,
            learns=learns,
        )


def _check(x: Tensor, weight: Tensor, selection_bias: Tensor | None, top_k: int) -> None:
    check_axes("x", x, "(tokens, d_model)")
    check_axes("weight", weight, "(n_experts, d_model)")
    check_beside("weight", weight, (len(weight), x.shape[1]), "x", x)
    check_computed("x", x)
    check_floating("weight", weight)
    if selection_bias is not None:
        check_beside("selection_bias", selection_bias, (len(weight),), "x", x)
        check_floating("selection_bias", selection_bias)
    if not 1 <= top_k <= len(weight):
        raise ValueError(f"top_k is {top_k}; expected 1 to {len(weight)}, the experts of weight")
