# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"
"""Where every assignment goes: a counting sort on the device, without atomics and without asking the host.

A slot is one (token, choice) pair, numbered ``token * top_k + choice``; S slots in all. Sorted, a slot becomes a row.
The order is by (chunk of slots, expert, slot): inside a chunk an expert's rows are neighbours, and the tokens of one
chunk are few enough for their activations to stay in the second-level cache while all its experts gather them. A
(chunk, expert) pair is a group. Grids depend on shapes alone (a tile that turns out not to exist returns at once), so
a CUDA graph can hold them whatever the routing.

An expert index out of range has no row (``row_of_slot`` -1); its token's output is NaN rather than a wild read.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.moe_ffn.triton.tuning import rows_of_tile

SORT_BLOCK = 256
"""Slots ranked by one program."""
SORT_STEP = 32
"""Slots each of them is compared with at a time."""
CHUNK_BYTES = 12 * 2**20
"""Activations of one chunk of tokens; an H100's second-level cache is two halves of 25 MB."""
CHUNK_ROWS = 512
"""Rows a group should have at least: smaller ones would spend their tiles on padding."""


class Plan(NamedTuple):
    """Sizes that follow from shapes alone."""

    n_chunks: int
    blocks_per_chunk: int
    """Sort blocks in a chunk."""
    block_m: int
    """Rows of a tile."""
    n_tiles: int
    """Upper bound on the tiles of all groups."""


def plan(n_tokens: int, top_k: int, n_experts: int, d_model: int, element_size: int) -> Plan:
    """Choose chunks and tiles for a shape."""
    n_slots = n_tokens * top_k
    by_cache = triton.cdiv(n_tokens * d_model * element_size, CHUNK_BYTES)
    by_rows = n_slots // (n_experts * CHUNK_ROWS)
    n_blocks = triton.cdiv(n_slots, SORT_BLOCK)
    blocks_per_chunk = triton.cdiv(n_blocks, max(1, min(by_cache, by_rows)))
    n_chunks = triton.cdiv(n_blocks, blocks_per_chunk)
    n_groups = n_chunks * n_experts
    block_m = rows_of_tile(n_slots / n_groups, element_size=element_size)
    return Plan(n_chunks, blocks_per_chunk, block_m, n_tiles=n_slots // block_m + min(n_groups, n_slots))


@triton.jit
def rank_in_block(
    expert_index, rank, counts, n_slots, n_experts, blocks_per_chunk, BLOCK: tl.constexpr, STEP: tl.constexpr
):
    """Write every slot's rank among the equal ones before it in its block, and how many of each expert the block has.

    ``counts`` (chunk, expert, block in chunk) must be zero on entry.
    """
    block = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    slot = block * BLOCK + i
    expert = tl.load(expert_index + slot, mask=slot < n_slots, other=-1).to(tl.int32)
    before = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    for first in range(0, BLOCK, STEP):
        j = first + tl.arange(0, STEP)
        other = tl.load(expert_index + block * BLOCK + j, mask=block * BLOCK + j < n_slots, other=-1).to(tl.int32)
        same = expert[:, None] == other[None, :]
        equal += tl.sum(same.to(tl.int32), axis=1)
        before += tl.sum((same & (j[None, :] < i[:, None])).to(tl.int32), axis=1)
    tl.store(rank + slot, before, mask=slot < n_slots)
    group = (block // blocks_per_chunk) * n_experts + expert
    is_last = (expert >= 0) & (expert < n_experts) & (before == equal - 1)
    cell = group.to(tl.int64) * blocks_per_chunk + block % blocks_per_chunk
    tl.store(counts + cell, equal, mask=is_last)


@triton.jit
def place(expert_index, row_of_slot, counts, ends, n_slots, n_experts, blocks_per_chunk, BLOCK: tl.constexpr):
    """Turn the ranks in ``row_of_slot`` into rows: add the first row of the slot's expert in its block."""
    block = tl.program_id(0)
    slot = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(expert_index + slot, mask=slot < n_slots, other=-1).to(tl.int32)
    known = (expert >= 0) & (expert < n_experts)
    group = (block // blocks_per_chunk) * n_experts + expert
    cell = group.to(tl.int64) * blocks_per_chunk + block % blocks_per_chunk
    first = tl.load(ends + cell, mask=known, other=0) - tl.load(counts + cell, mask=known, other=0)
    rank = tl.load(row_of_slot + slot, mask=slot < n_slots, other=0)
    tl.store(row_of_slot + slot, tl.where(known, first + rank, -1), mask=slot < n_slots)


@triton.jit
def invert(row_of_slot, slot_of_row, n_slots, BLOCK: tl.constexpr):
    """Write the inverse permutation."""
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(row_of_slot + slot, mask=slot < n_slots, other=-1)
    tl.store(slot_of_row + row, slot, mask=row >= 0)


@triton.jit
def tile_table(group_start, tiles, n_experts, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr):
    """Write (expert, first row, end row of the group) of every tile of one group, after those of earlier groups."""
    group = tl.program_id(0)
    n_before = 0
    for first in range(0, group, BLOCK):
        other = first + tl.arange(0, BLOCK)
        begin = tl.load(group_start + other, mask=other < group, other=0)
        end = tl.load(group_start + other + 1, mask=other < group, other=0)
        n_before += tl.sum(tl.cdiv(end - begin, BLOCK_M))
    begin = tl.load(group_start + group)
    end = tl.load(group_start + group + 1)
    n_tiles = tl.cdiv(end - begin, BLOCK_M)
    for first in range(0, n_tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        entry = tiles + (n_before + tile) * 3
        tl.store(entry, group % n_experts + tl.zeros_like(tile), mask=tile < n_tiles)
        tl.store(entry + 1, begin + tile * BLOCK_M, mask=tile < n_tiles)
        tl.store(entry + 2, end + tl.zeros_like(tile), mask=tile < n_tiles)


def sort_slots(expert_index: Tensor, n_experts: int, shape: Plan) -> tuple[Tensor, Tensor]:
    """Sort by (chunk, expert, slot).

    Returns:
        ``row_of_slot`` (tokens, top_k) int32, and ``group_start`` (n_chunks * n_experts + 1,) int32, the first row of
        every group.
    """
    n_slots = expert_index.numel()
    n_groups = shape.n_chunks * n_experts
    row_of_slot = torch.empty_like(expert_index, dtype=torch.int32)
    counts = row_of_slot.new_zeros(n_groups, shape.blocks_per_chunk)
    grid = (triton.cdiv(n_slots, SORT_BLOCK),)
    sizes = (n_slots, n_experts, shape.blocks_per_chunk)
    rank_in_block[grid](expert_index, row_of_slot, counts, *sizes, BLOCK=SORT_BLOCK, STEP=SORT_STEP, num_warps=8)
    ends = counts.flatten().cumsum(0, dtype=torch.int32)
    place[grid](expert_index, row_of_slot, counts, ends, *sizes, BLOCK=SORT_BLOCK)
    return row_of_slot, functional.pad(ends.view(n_groups, -1)[:, -1], (1, 0))


def slots_of_rows(row_of_slot: Tensor) -> Tensor:
    """Return the inverse of ``row_of_slot`` (S,) int32; rows of no slot are left unwritten, and no group has them."""
    n_slots = row_of_slot.numel()
    slot_of_row = torch.empty_like(row_of_slot).flatten()
    invert[(triton.cdiv(n_slots, SORT_BLOCK),)](row_of_slot, slot_of_row, n_slots, BLOCK=SORT_BLOCK)
    return slot_of_row


def cut_tiles(group_start: Tensor, n_experts: int, shape: Plan) -> Tensor:
    """Return (n_tiles, 3) int32: expert, first row and end row of the group; tiles not needed are all zero."""
    tiles = group_start.new_zeros(shape.n_tiles, 3)
    tile_table[(shape.n_chunks * n_experts,)](group_start, tiles, n_experts, BLOCK_M=shape.block_m, BLOCK=128)
    return tiles
