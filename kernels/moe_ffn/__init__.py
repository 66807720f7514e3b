"""The routed feed-forward layer of a mixture of experts, forward and backward, behind one function.

A backend is a function with the signature of :func:`~moe_search.kernels.moe_ffn.reference.reference_moe_ffn` and a row
in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.arguments import (
    check_axes,
    check_backend,
    check_below,
    check_beside,
    check_computed,
    check_finite,
    check_floating,
    check_type_of,
    chosen_backend,
)
from moe_search.kernels.backends import compiled_or, constant_in_graphs
from moe_search.kernels.moe_ffn.activations import ACTIVATIONS, Activation
from moe_search.kernels.moe_ffn.cpu import cpu_moe_ffn, library
from moe_search.kernels.moe_ffn.grouped import grouped_moe_ffn
from moe_search.kernels.moe_ffn.reference import reference_moe_ffn
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn, why_not
from moe_search.kernels.passes import counted

__all__ = ["ACTIVATIONS", "BACKENDS", "backend_counts", "default_backend", "moe_ffn"]


class Backend(Protocol):
    """One way to compute the layer; its arguments have been checked."""

    def __call__(
        self, x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, *, activation: Activation
    ) -> Tensor: ...


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {"reference": reference_moe_ffn, "grouped": grouped_moe_ffn, "cpu": cpu_moe_ffn, "triton": triton_moe_ffn}
)


def backend_counts() -> dict[str, int]:
    """Return how many forward passes each backend has done in this process."""
    return counted("moe_ffn", BACKENDS)


@constant_in_graphs
def default_backend(device_type: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the backend that "auto" takes on a device for a type, and the reason in a few words."""
    if device_type == "cuda":
        reason = why_not(device_type, dtype)
        return ("grouped", reason) if reason else ("triton", "its kernels run on CUDA")
    return compiled_or("grouped", library, device_type, dtype)


def moe_ffn(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    *,
    activation: str = "swiglu",
    backend: str = "auto",
    finite: bool = False,
) -> Tensor:
    """Pass every token through its experts and add up their outputs.

    ``out[t] = sum_j gates[t, j] * act(x[t] @ w_up[e].T) @ w_down[e]`` with ``e = expert_index[t, j]``. Gradients flow
    to ``x``, ``w_up``, ``w_down`` and ``gates``. Inside an autocast region ``x`` and the weights are cast to its type.

    Args:
        x: (tokens, d_model), float32, bfloat16 or float64.
        w_up: (n_experts, 2 * d_expert, d_model) for a gated activation, the gate's half first (as in Hugging Face
            models), else (n_experts, d_expert, d_model).
        w_down: (n_experts, d_expert, d_model), hidden-major.
        expert_index: (tokens, top_k), int64 or int32, values in [0, n_experts).
        gates: (tokens, top_k), floating; may be of higher precision than ``x``.
        activation: a key of ``ACTIVATIONS``: "swiglu", "geglu", "relu2" or "gelu".
        backend: a key of ``BACKENDS``, or "auto" for the fastest there is (``default_backend``).
        finite: the caller knows that all values are finite, or wants NaN and inf to come out where they went in, as a
            training loop does that looks for them in its loss; they are not looked for then.

    Returns:
        (tokens, d_model) in the type of ``x``.

    Raises:
        ValueError: an argument of the wrong shape, type, device or range, or with NaN or inf; the message names it.
            Values are looked at on the CPU only (on a GPU that would make the host wait), and not in compiled code.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; known: {', '.join(ACTIVATIONS)}")
    check_backend(backend, BACKENDS)
    autocast = torch.is_autocast_enabled(x.device.type)
    if autocast:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    _check(x, w_up, w_down, expert_index, gates, gated=ACTIVATIONS[activation].gated, weights_of_type=not autocast)
    if not finite:
        check_finite(x=x, w_up=w_up, w_down=w_down, gates=gates)
    name = chosen_backend(backend, BACKENDS, default_backend, "x", x)
    if name != "cpu":  # which rounds float32 weights as it packs them
        w_up, w_down = w_up.to(x.dtype), w_down.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return BACKENDS[name](x, w_up, w_down, expert_index, gates, activation=ACTIVATIONS[activation])


def _check(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    *,
    gated: bool,
    weights_of_type: bool,
) -> None:
    check_axes("x", x, "(tokens, d_model)")
    check_axes("w_down", w_down, "(n_experts, d_expert, d_model)")
    check_axes("expert_index", expert_index, "(tokens, top_k)")
    (n_tokens, d_model), (n_experts, d_expert, _) = x.shape, w_down.shape
    check_beside("w_down", w_down, (n_experts, d_expert, d_model), "x", x)
    check_beside("w_up", w_up, (n_experts, 2 * d_expert if gated else d_expert, d_model), "x", x)
    check_beside("expert_index", expert_index, (n_tokens, expert_index.shape[1]), "x", x)
    check_beside("gates", gates, tuple(expert_index.shape), "x", x)
    check_computed("x", x)
    for name, tensor in (("w_up", w_up), ("w_down", w_down)):
        check_floating(name, tensor)
        if weights_of_type:
            check_type_of(name, tensor, "x", x)
    check_floating("gates", gates)
    if expert_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"expert_index is {expert_index.dtype}; expected int64 or int32")
    check_below("expert_index", expert_index, n_experts)
