# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-call"
"""The layer out of its kernels, as a pair of torch operators: forward and backward.

In shapes: T tokens, K experts a token, S = T * K routed rows, D model width, F hidden width.

Forward: sort the slots, up-projection with the activation in its epilogue (H and A), down-projection (Y), ordered
gather-sum of Y by token. Kept for backward: x, the gates, H, and 4 bytes a slot of routing.

Backward (the plan of SonicMoE, section "memory efficient backward"): one kernel turns dO into dH, gate * A and the
gates' gradient; two weight gradients; one expansion of dX, summed by token like Y.

On memory traffic. At small F the (S, D) arrays dominate: Y and the expanded dX are each written once and read once,
x and dO each gathered twice. Three ways to avoid them were weighed:

* Accumulating into the tokens' rows from the down-projection needs float atomics (other bits every run) or one owner
  per block of tokens. An owner that goes through its experts in turn reads and writes float32 in the second-level
  cache, 8 bytes an element against the 4 of a bfloat16 written and read in memory, at less than twice the bandwidth.
* Tiles of tokens instead of experts: a tile short enough for its output to stay on chip gives each expert one row or
  two where E is much larger than K, and tensor cores work on 16 at least: up to 16 times the arithmetic.
* Sorting by (chunk of tokens, expert): taken (:mod:`moe_search.kernels.moe_ffn.triton.routing`). Y and dX stay, but
  in the up-projection and the hidden gradient a chunk's x and dO come from memory once rather than K times. The weight
  gradients sum over all chunks and gather from memory as before.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from moe_search.kernels.moe_ffn.activations import ACTIVATIONS
from moe_search.kernels.moe_ffn.triton.combine import sum_by_token
from moe_search.kernels.moe_ffn.triton.products import (
    hidden_gradient,
    rows_times_weight,
    up_projection,
    weight_gradient,
)
from moe_search.kernels.moe_ffn.triton.routing import Plan, cut_tiles, plan, slots_of_rows, sort_slots
from moe_search.kernels.moe_ffn.triton.tuning import SMALLEST_BLOCK, matmul_precision
from moe_search.kernels.passes import count_pass


def _plan(x: Tensor, expert_index: Tensor, n_experts: int) -> Plan:
    n_tokens, top_k = expert_index.shape
    return plan(n_tokens, top_k, n_experts, x.shape[1], x.element_size())


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which Triton launches on the device of ``x``, which need not be the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _times_weight(rows: Tensor, weight: Tensor, tiles: Tensor, block_m: int) -> Tensor:
    """Return every row (S, d_in) times its expert's matrix of ``weight`` (E, d_in, d_out)."""
    _, d_in, d_out = weight.shape
    out = rows.new_empty(len(rows), d_out)
    rows_times_weight[lambda meta: (len(tiles) * triton.cdiv(d_out, meta["BLOCK_N"]),)](
        rows, weight, out, tiles, d_in, d_out, PRECISION=matmul_precision(rows.dtype), BLOCK_M=block_m
    )
    return out


def _weight_gradient(
    rows: Tensor, gathered: Tensor, slot_of_row: Tensor, group_start: Tensor, n_chunks: int, top_k: int
) -> Tensor:
    """Return (E, d_rows, d_model): over each expert's rows, the sum of outer products with the gathered tokens."""
    n_experts, d_rows, d_model = (len(group_start) - 1) // n_chunks, rows.shape[1], gathered.shape[1]
    out = rows.new_empty(n_experts, d_rows, d_model)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (n_experts * triton.cdiv(d_rows, meta["BLOCK_M"]) * triton.cdiv(d_model, meta["BLOCK_N"]),)

    weight_gradient[grid](
        rows,
        gathered,
        out,
        slot_of_row,
        group_start,
        n_chunks,
        n_experts,
        d_rows,
        d_model,
        top_k,
        PRECISION=matmul_precision(rows.dtype),
    )
    return out


@torch.library.custom_op("moe_search::moe_ffn_triton", mutates_args=())
def forward(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    activation: str,
    keep: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the output (T, D), and for backward: H (S, 2F or F; no rows unless ``keep``), row_of_slot, group_start."""
    count_pass("moe_ffn", "triton")
    x, w_up, w_down, expert_index = (t.contiguous() for t in (x, w_up, w_down, expert_index))
    n_experts, d_expert, d_model = w_down.shape
    n_slots, top_k = expert_index.numel(), expert_index.shape[1]
    h = x.new_empty(n_slots if keep else 0, w_up.shape[1])
    if n_slots == 0:
        nowhere = expert_index.new_zeros(1, dtype=torch.int32)
        return torch.zeros_like(x), h, torch.empty_like(expert_index, dtype=torch.int32), nowhere
    shape = _plan(x, expert_index, n_experts)
    with _on_device_of(x):
        row_of_slot, group_start = sort_slots(expert_index, n_experts, shape)
        tiles = cut_tiles(group_start, n_experts, shape)
        hidden = x.new_empty(n_slots, d_expert)
        up_projection[lambda meta: (shape.n_tiles * triton.cdiv(d_expert, meta["BLOCK_N"]),)](
            x,
            w_up,
            h,
            hidden,
            slots_of_rows(row_of_slot),
            tiles,
            d_model,
            d_expert,
            top_k,
            ACTIVATION=activation,
            GATED=ACTIVATIONS[activation].gated,
            KEEP=keep,
            PRECISION=matmul_precision(x.dtype),
            BLOCK_M=shape.block_m,
        )
        y = _times_weight(hidden, w_down, tiles, shape.block_m)
        return sum_by_token(y, row_of_slot, gates.contiguous()), h, row_of_slot, group_start


@torch.library.custom_op("moe_search::moe_ffn_triton_backward", mutates_args=())
def backward(
    grad_out: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    gates: Tensor,
    h: Tensor,
    row_of_slot: Tensor,
    group_start: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, w_up, w_down and gates."""
    grad_out, x, w_up, w_down, gates = (t.contiguous() for t in (grad_out, x, w_up, w_down, gates))
    n_experts, d_expert, d_model = w_down.shape
    n_slots, top_k = row_of_slot.numel(), row_of_slot.shape[1]
    if n_slots == 0:
        return torch.zeros_like(x), torch.zeros_like(w_up), torch.zeros_like(w_down), torch.zeros_like(gates)
    shape = _plan(x, row_of_slot, n_experts)
    with _on_device_of(x):
        slot_of_row = slots_of_rows(row_of_slot)
        tiles = cut_tiles(group_start, n_experts, shape)
        grad_h, hidden = torch.empty_like(h), x.new_empty(n_slots, d_expert)
        grad_gate = gates.new_zeros(triton.cdiv(d_expert, SMALLEST_BLOCK), n_slots, dtype=torch.float32)
        hidden_gradient[lambda meta: (shape.n_tiles * triton.cdiv(d_expert, meta["BLOCK_N"]),)](
            grad_out,
            w_down,
            h,
            gates,
            grad_h,
            hidden,
            grad_gate,
            slot_of_row,
            tiles,
            n_slots,
            d_model,
            d_expert,
            top_k,
            ACTIVATION=activation,
            GATED=ACTIVATIONS[activation].gated,
            PRECISION=matmul_precision(x.dtype),
            BLOCK_M=shape.block_m,
        )
        routes = (slot_of_row, group_start, shape.n_chunks, top_k)
        grad_w_down = _weight_gradient(hidden, grad_out, *routes)
        grad_w_up = _weight_gradient(grad_h, x, *routes)
        grad_x = sum_by_token(_times_weight(grad_h, w_up, tiles, shape.block_m), row_of_slot, None)
        return grad_x, grad_w_up, grad_w_down, grad_gate.sum(0).view(gates.shape).to(gates.dtype)


@forward.register_fake
def _(
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    expert_index: Tensor,
    gates: Tensor,
    activation: str,
    keep: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    row_of_slot = torch.empty_like(expert_index, dtype=torch.int32)
    n_slots = expert_index.numel()
    n_groups = _plan(x, expert_index, len(w_down)).n_chunks * len(w_down) if n_slots else 0
    h = x.new_empty(n_slots if keep else 0, w_up.shape[1])
    return torch.empty_like(x).contiguous(), h, row_of_slot.contiguous(), row_of_slot.new_empty(n_groups + 1)


@backward.register_fake
def _(
    grad_out: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    gates: Tensor,
    h: Tensor,
    row_of_slot: Tensor,
    group_start: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        w_up.new_empty(w_up.shape),
        w_down.new_empty(w_down.shape),
        gates.new_empty(gates.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w_up, w_down, _, gates, activation, _ = inputs
    ctx.save_for_backward(x, w_up, w_down, gates, *output[1:])
    ctx.activation = activation
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 7
    grad_x, grad_w_up, grad_w_down, grad_gates = backward(grad_out, *ctx.saved_tensors, ctx.activation)
    return grad_x, grad_w_up, grad_w_down, None, grad_gates, None, None


forward.register_autograd(_differentiate, setup_context=_setup)
