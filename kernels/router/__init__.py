"""A router, from hidden states to experts, gates and the sums that balancing needs, behind one function.

A backend is a function with the signature of :func:`~moe_search.kernels.router.reference.reference_route` and a row in
``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.backends import check_compiled, compiled_or, constant_in_graphs
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
        selection_bias: (n_experts,) added to the scores for the selection only (arXiv 2408.15664); None: nothing.
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).

    Raises:
        ValueError: an argument of the wrong shape, type, device or range; the message names it.
    """
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; known: {', '.join(SCORES)}")
    if backend not in {"auto", *BACKENDS}:
        raise ValueError(f"backend is {backend!r}; known: auto, {', '.join(BACKENDS)}")
    _check(x, weight, selection_bias, top_k)
    name = default_backend(x.device.type, x.dtype)[0] if backend == "auto" else backend
    if name == "cpu":
        check_compiled("x", x, default_backend("cpu", x.dtype))
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
    for name, tensor, dimensions in (("x", x, "(tokens, d_model)"), ("weight", weight, "(n_experts, d_model)")):
        if tensor.dim() != 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {dimensions}")
    bias = () if selection_bias is None else (("selection_bias", selection_bias, (len(weight),)),)
    for name, tensor, shape in (("weight", weight, (len(weight), x.shape[1])), *bias):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape} from the other arguments")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} but x is on {x.device}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}; expected a floating type")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise ValueError(f"x is {x.dtype}; expected float32, bfloat16 or float64")
    if not 1 <= top_k <= len(weight):
        raise ValueError(f"top_k is {top_k}; expected 1 to {len(weight)}, the experts of weight")
