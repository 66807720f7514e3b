# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator"
"""Tile shapes: a rule for the rows of a tile, a short table for the rest, and Triton's autotuner to pick from it.

``BLOCK_M`` of the kernels over rows follows from the rows an expert gets, because the table of tiles is built for one
value of it. The rest is measured the first time a shape is seen (``TRITON_CACHE_AUTOTUNING=1`` keeps the winners on
disk, for later processes).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on CPU tensors; fixed when this module is imported."""

SMALLEST_BLOCK = 16
"""The least that ``tl.dot`` takes; in the interpreter, which has nothing to measure, every tile is this wide."""


def rows_of_tile(rows_per_group: float, *, element_size: int) -> int:
    """Return BLOCK_M for experts of about this many rows: large tiles read weights less often, small ones pad less."""
    if INTERPRETED:
        return SMALLEST_BLOCK
    largest = 128 if element_size == 2 else 64  # float32 without tensor cores keeps its operands in registers
    return next((m for m in (128, 64, 32) if m <= largest and rows_per_group >= 2 * m), 16)


def table(*rows: tuple[dict[str, int], int, int]) -> list[triton.Config]:
    """Return the rows (blocks, warps, stages) as autotuner configurations."""
    if INTERPRETED:
        return [triton.Config(dict.fromkeys(rows[0][0], SMALLEST_BLOCK))]
    return [triton.Config(blocks, num_warps=warps, num_stages=stages) for blocks, warps, stages in rows]


def tuned(
    configs: list[triton.Config], *, key: list[str], widths: dict[str, str], zeroed: list[str] | None = None
) -> Callable[[Any], Any]:
    """Return a decorator that lets Triton choose among ``configs`` for each value of the arguments in ``key``.

    ``widths`` maps a block to the argument it covers. Tried are the configurations that fit (no block beyond its
    argument's next power of two, nor beyond 64 in float32) and whose tile has a quarter of the largest one's elements
    at least; if none fits, the smallest. ``zeroed`` names arguments to be zero at every trial.
    """

    def area(config: triton.Config) -> int:
        return math.prod(config.kwargs[block] for block in widths)

    def fitting(configs: list[triton.Config], arguments: dict[str, Any], **meta: Any) -> list[triton.Config]:
        values = {**arguments, **meta}
        single = any(
            isinstance(value, torch.Tensor) and value.dtype == torch.float32 and "gate" not in name
            for name, value in values.items()
        )
        fit = [
            config
            for config in configs
            if all(
                config.kwargs[block] <= min(64 if single else 256, max(16, triton.next_power_of_2(values[extent])))
                for block, extent in widths.items()
            )
        ]
        largest = max(map(area, fit), default=0)
        return [config for config in fit if 4 * area(config) >= largest] or [min(configs, key=area)]

    decorator: Callable[[Any], Any] = triton.autotune(
        configs, key=key, reset_to_zero=zeroed, prune_configs_by={"early_config_prune": fitting}
    )
    return decorator


def matmul_precision(dtype: torch.dtype) -> str:
    """Return how ``tl.dot`` treats operands of ``dtype``: TF32 only where torch's own products may use it.

    The interpreter multiplies bfloat16 bit patterns as if they were integers, so there they are widened first.
    """
    if INTERPRETED:
        return "widened" if dtype == torch.bfloat16 else "ieee"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
