"""The MoE feed-forward layer in C++, on one CPU: ``moe_ffn.cpp`` beside this file says how it works.

Two custom operators, so that ``torch.compile(fullgraph=True)`` passes over them; both take any number of threads and
return the same bits for all. For backward are kept the input, the pre-activations and the routing.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_search.kernels.backends import constant_in_graphs
from moe_search.kernels.moe_ffn.activations import Activation
from moe_search.kernels.native.level import ROUNDING_LEVELS, chosen_level
from moe_search.kernels.native.library import NativeLibrary, n_threads, native_library
from moe_search.kernels.passes import count_pass

_CODES = {"swiglu": 0, "geglu": 1, "relu2": 2, "gelu": 3}
_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def library() -> NativeLibrary:
    """Return the compiled layer, or why there is none."""
    return native_library(Path(__file__).with_name("moe_ffn.cpp"), chosen_level())


@constant_in_graphs
def rounds_weights() -> bool:
    """Return whether float32 weights can be rounded to bfloat16 as they are packed."""
    return library().level in ROUNDING_LEVELS


def _sizes(x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, activation: str) -> tuple[int, ...]:
    (tokens, d_model), (experts, d_expert, _) = x.shape, w_down.shape
    return tokens, expert_index.shape[1], d_model, d_expert, experts, _CODES[activation], n_threads()


def _types(x: Tensor, weight: Tensor) -> str:
    return f"{_NAMES[x.dtype]}_{_NAMES[weight.dtype]}"


@torch.library.custom_op("moe_search::moe_ffn_cpu", mutates_args=())
def _forward(  # noqa: PLR0917 -- operators know no keywords
    x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """Return the output (tokens, d_model) and the pre-activations (tokens * top_k, 2f or f), sorted by expert."""
    count_pass("moe_ffn", "cpu")
    out, h = torch.empty_like(x), x.new_empty(expert_index.numel(), w_up.shape[1])
    sizes = _sizes(x, w_up, w_down, expert_index, activation)
    given = (x, w_up, w_down, expert_index.int(), gates.float())
    library().call(f"moe_ffn_forward_{_types(x, w_up)}", *sizes, *given, out, h)
    return out, h


@_forward.register_fake
def _(x: Tensor, w_up: Tensor, _w_down: Tensor, expert_index: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), x.new_empty(expert_index.numel(), w_up.shape[1])


@torch.library.custom_op("moe_search::moe_ffn_cpu_backward", mutates_args=())
def _backward(  # noqa: PLR0917
    grad: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    h: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, w_up, w_down and gates."""
    made = torch.empty_like(x), torch.empty_like(w_up), torch.empty_like(w_down)
    grad_gates = torch.empty_like(gates, dtype=torch.float32)
    sizes = _sizes(x, w_up, w_down, expert_index, activation)
    given = (grad, x, w_up, w_down, expert_index.int(), gates.float(), h)
    library().call(f"moe_ffn_backward_{_types(x, w_up)}", *sizes, *given, *made, grad_gates)
    return *made, grad_gates.to(gates.dtype)


@_backward.register_fake
def _(_grad: Tensor, x: Tensor, w_up: Tensor, w_down: Tensor, _index: Tensor, gates: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(w_up), torch.empty_like(w_down), torch.empty_like(gates)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    grad_x, grad_up, grad_down, grad_gates = _backward(grad.contiguous(), *ctx.saved_tensors, ctx.activation)
    return grad_x, grad_up, grad_down, None, grad_gates, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def cpu_moe_ffn(
    x: Tensor, w_up: Tensor, w_down: Tensor, expert_index: Tensor, gates: Tensor, *, activation: Activation
) -> Tensor:
    """Return the layer's output; arguments as in :func:`moe_search.kernels.moe_ffn.moe_ffn`, already checked.

    Weights of another type than ``x`` are rounded to it: float32 ones as they are packed, where the CPU has bfloat16
    products, and then their gradients are not rounded. Index and gates are kept for backward as small as they come: of
    experts 16 wide they would weigh a tenth of the pre-activations.
    """
    if not (w_up.dtype == w_down.dtype == torch.float32 and rounds_weights()):
        w_up, w_down = w_up.to(x.dtype), w_down.to(x.dtype)
    index = expert_index.to(torch.int16 if len(w_up) <= torch.iinfo(torch.int16).max else torch.int32)
    given = (tensor.contiguous() for tensor in (x, w_up, w_down, index, gates))
    out: Tensor = _forward(*given, activation.name)[0]
    return out
