"""The Triton kernels go through the real compiler, which is stricter than the interpreter and needs no GPU."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs the package triton (no GPU)")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("needs Triton's compiler, not its interpreter", allow_module_level=True)

from moe_search.kernels.moe_ffn.triton import combine, products, routing  # noqa: E402 -- they import triton

INDICES = {"slot_of_row", "tiles", "group_start", "row_of_slot", "rank", "counts", "ends"}
SHARED_MEMORY = 227 * 1024
"""Bytes that one program may use on an H100."""


def built(kernel: Any, *, warps: int = 4, stages: int = 3, **constants: Any) -> Any:
    """Compile for an H100, as if for bfloat16 tensors and sizes that are multiples of 16 (but for top_k)."""
    while not isinstance(kernel, triton.runtime.jit.JITFunction):
        kernel = kernel.fn
    types: dict[str, str] = {}
    values: dict[tuple[int], Any] = {}
    aligned: dict[tuple[int], list[list[Any]]] = {}
    for i, parameter in enumerate(kernel.params):
        name = parameter.name
        if parameter.is_constexpr:
            types[name], values[i,] = "constexpr", constants[name]
            continue
        if name.startswith(("n_", "d_", "top_k", "blocks_per_chunk")):
            types[name] = "i32"
        elif name == "expert_index":
            types[name] = "*i64"
        elif name in INDICES:
            types[name] = "*i32"
        else:
            types[name] = "*fp32" if name in ("gates", "grad_gate") else "*bf16"
        if name != "top_k":
            aligned[i,] = [["tt.divisibility", 16]]
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    source = triton.compiler.ASTSource(kernel, types, values, aligned)
    return triton.compile(source, target, {"num_warps": warps, "num_stages": stages})


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("name", ["up_projection", "rows_times_weight", "hidden_gradient", "weight_gradient"])
def test_products_use_the_tensor_cores_of_an_h100(name: str) -> None:
    kernel = getattr(products, name)
    config = kernel.configs[0]
    result = built(
        kernel,
        warps=config.num_warps,
        stages=config.num_stages,
        **{"BLOCK_M": 128, **config.kwargs},
        **dict.fromkeys(("GATED", "KEEP", "EVEN", "EVEN_K", "EVEN_N", "EIGHTS"), True),
        ACTIVATION="swiglu",
        PRECISION="tf32",
    )
    assert "wgmma.mma_async" in result.asm["ptx"]
    assert "cp.async" in result.asm["ptx"]  # the gathers are fused into asynchronous loads
    assert result.metadata.shared <= SHARED_MEMORY


def test_the_small_kernels_compile() -> None:
    built(combine.gather_sum, WEIGHTED=True, BLOCK_T=2, BLOCK_D=1024)
    built(routing.rank_in_block, warps=8, BLOCK=routing.SORT_BLOCK, STEP=routing.SORT_STEP)
    built(routing.place, BLOCK=routing.SORT_BLOCK)
    built(routing.invert, BLOCK=routing.SORT_BLOCK)
    built(routing.tile_table, BLOCK_M=128, BLOCK=128)


@pytest.mark.parametrize("width", [1, 8, 24, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tuning_tries_only_tiles_that_fit(width: int, dtype: torch.dtype) -> None:
    arguments = {"x": torch.empty(0, dtype=dtype), "gates": torch.empty(0)}
    for kernel, inner, outer in (
        (products.up_projection, "d_model", "d_expert"),
        (products.rows_times_weight, "d_in", "d_out"),
        (products.hidden_gradient, "d_model", "d_expert"),
        (products.weight_gradient, "d_rows", "d_model"),
    ):
        tried = kernel.early_config_prune(kernel.configs, {**arguments, inner: 64, outer: width})
        widths = {config.kwargs["BLOCK_N"] for config in tried}
        assert widths
        assert max(widths) <= max(32, min(2 * width, 64 if dtype == torch.float32 else 256))
