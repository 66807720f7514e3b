# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"
"""Bring rows back to their tokens: an ordered sum, so the same bits every time, where a scatter would need atomics."""

import torch
import triton
import triton.language as tl
from torch import Tensor

NAN = tl.constexpr(float("nan"))


@triton.jit
def gather_sum(
    rows,
    row_of_slot,
    gates,
    out,
    n_tokens,
    d_model,
    top_k,
    WEIGHTED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``out[t] = sum_j gates[t, j] * rows[row_of_slot[t, j]]`` over j in order, in float32."""
    d_blocks = tl.cdiv(d_model, BLOCK_D)
    token = (tl.program_id(0) // d_blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = (tl.program_id(0) % d_blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (token < n_tokens)[:, None] & (column < d_model)[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for j in range(top_k):
        slot = token * top_k + j
        row = tl.load(row_of_slot + slot, mask=token < n_tokens, other=0)
        offset = row.to(tl.int64)[:, None] * d_model + column[None, :]
        value = tl.load(rows + offset, mask=inside & (row >= 0)[:, None], other=0.0).to(tl.float32)
        value = tl.where((row >= 0)[:, None], value, NAN)
        if WEIGHTED:
            value *= tl.load(gates + slot, mask=token < n_tokens, other=0.0).to(tl.float32)[:, None]
        total += value
    offset = token.to(tl.int64)[:, None] * d_model + column[None, :]
    tl.store(out + offset, total.to(out.dtype.element_ty), mask=inside)


def sum_by_token(rows: Tensor, row_of_slot: Tensor, gates: Tensor | None) -> Tensor:
    """Return (tokens, d_model): the rows (S, d_model) of every token, weighted by ``gates`` if given, added up."""
    n_tokens, top_k = row_of_slot.shape
    d_model = rows.shape[1]
    block_d = min(1024, max(16, triton.next_power_of_2(d_model)))
    block_t = max(1, 2048 // block_d)
    out = torch.empty(n_tokens, d_model, dtype=rows.dtype, device=rows.device)
    gather_sum[(triton.cdiv(n_tokens, block_t) * triton.cdiv(d_model, block_d),)](
        rows,
        row_of_slot,
        gates,
        out,
        n_tokens,
        d_model,
        top_k,
        WEIGHTED=gates is not None,
        BLOCK_T=block_t,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return out
