"""The routed feed-forward layer of a mixture of experts, forward and backward, behind one function.

A backend is a function with the signature of :func:`~moe_search.kernels.moe_ffn.reference.reference_moe_ffn` and a row
in ``BACKENDS``. It is chosen by keyword, never by a global, and ``backend_counts()`` tells which ones really ran.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from moe_search.kernels.backends import check_compiled, check_finite, compiled_or, constant_in_graphs
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
    if backend not in {"auto", *BACKENDS}:
        raise ValueError(f"backend is {backend!r}; known: auto, {', '.join(BACKENDS)}")
    autocast = torch.is_autocast_enabled(x.device.type)
    if autocast:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    _check(x, w_up, w_down, expert_index, gates, gated=ACTIVATIONS[activation].gated, weights_of_type=not autocast)
    if not finite:
        check_finite(x=x, w_up=w_up, w_down=w_down, gates=gates)
    name = default_backend(x.device.type, x.dtype)[0] if backend == "auto" else backend
    if name == "cpu":
        check_compiled("x", x, default_backend("cpu", x.dtype))
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
    for name, tensor, dimensions in (
        ("x", x, "(tokens, d_model)"),
        ("w_down", w_down, "(n_experts, d_expert, d_model)"),
        ("expert_index", expert_index, "(tokens, top_k)"),
    ):
        if tensor.dim() != dimensions.count(",") + 1:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {dimensions}")
    (n_tokens, d_model), (n_experts, d_expert, _) = x.shape, w_down.shape
    for name, tensor, shape in (
        ("w_down", w_down, (n_experts, d_expert, d_model)),
        ("w_up", w_up, (n_experts, 2 * d_expert if gated else d_expert, d_model)),
        ("expert_index", expert_index, (n_tokens, expert_index.shape[1])),
        ("gates", gates, tuple(expert_index.shape)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape} from the other arguments")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device} but x is on {x.device}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise ValueError(f"x is {x.dtype}; expected float32, bfloat16 or float64")
    for name, tensor in (("w_up", w_up), ("w_down", w_down)):
        if weights_of_type and tensor.dtype != x.dtype:
            raise ValueError(f"{name} is {tensor.dtype} but x is {x.dtype}")
    if not gates.is_floating_point():
        raise ValueError(f"gates is {gates.dtype}; expected a floating type")
    if expert_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"expert_index is {expert_index.dtype}; expected int64 or int32")
    if expert_index.device.type == "cpu" and expert_index.numel() > 0 and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in expert_index.aminmax())
        if low < 0 or high >= n_experts:
            raise ValueError(f"expert_index has values in [{low}, {high}]; expected [0, {n_experts - 1}]")
