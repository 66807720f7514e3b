"""The micro-kernels of every level: the right sums, in the right places, whatever the cut of the rows."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.native import level as levels
from moe_search.kernels.native.build import build, buildable, compiler
from moe_search.kernels.native.level import ROUNDING_LEVELS, tiles_permitted, usable_levels

SOURCE = """
#include "gemm.hpp"
#include "scratch.hpp"
using namespace moe;

// C[row(i), :] (+)= A[m, k] B[k, n]; A lies in rows or, as in a weight gradient, in columns.
template <class T>
void product(int m, int n, int k, int in_columns, int add, const T* a, const T* b, float* c, const int32_t* token) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    const int ku = units<P>(k), width = round_up(m, VL) + SPARE;
    U* right = scratch<0, U>(packed_size<P>(k, n));
    U* left = scratch<1, U>(size_t(width) * ku);
    pack<P, T>([&](int i) { return b + size_t(i) * n; }, k, n, right);
    if (in_columns)
        for (int i = 0; i < k; i += P::depth)
            pack_line<P, T>(a + size_t(i) * m, i + 1 < k ? a + size_t(i + 1) * m : nullptr, m,
                            left + size_t(i / P::depth) * width);
    else
        for (int i = 0; i < m; ++i) copy_row<P>(a + size_t(i) * k, k, left + size_t(i) * ku);
    const Tiles tiles;
    multiply<P>(m, n, k, left, in_columns ? 1 : ku, in_columns ? width : 1, right, Place{c, n, add != 0, token});
}
extern "C" void product_f32(int m, int n, int k, int in_columns, int add, const float* a, const float* b, float* c,
                            const int32_t* token) {
    product<float>(m, n, k, in_columns, add, a, b, c, token);
}
extern "C" void product_bf16(int m, int n, int k, int in_columns, int add, const bf16* a, const bf16* b, float* c,
                             const int32_t* token) {
    product<bf16>(m, n, k, in_columns, add, a, b, c, token);
}
"""


class Sizes(NamedTuple):
    """Of C and the sum."""

    m: int
    n: int
    k: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("products")
    (path / "product.cpp").write_text(SOURCE)
    return path


@cache
def functions(folder: Path, level: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(build(folder / "product.cpp", level)))


def multiply(
    folder: Path, level: str, a: Tensor, b: Tensor, c: Tensor, token: Tensor, *, in_columns: bool, add: bool
) -> None:
    """Write A B to the rows ``token`` of C, or add it."""
    m, k = a.shape
    function = getattr(functions(folder, level), "product_f32" if a.dtype == torch.float32 else "product_bf16")
    given_a = (a.T if in_columns else a).contiguous()
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (given_a, b, c, token))
    function(m, b.shape[1], k, int(in_columns), int(add), *pointers)


sizes = st.builds(Sizes, st.integers(1, 100), st.integers(1, 140), st.integers(1, 150))


@pytest.mark.parametrize("level", sorted(ROUNDING_LEVELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_of_integers_are_exact(folder: Path, level: str, dtype: torch.dtype) -> None:
    if level not in usable_levels():
        pytest.skip(f"this CPU, or its system, has not what {level} needs")
    if buildable(folder / "product.cpp", level) != level:
        pytest.skip(f"{compiler()} does not know {level}")

    @given(sizes, st.booleans(), st.booleans(), st.integers(0, 2**16))
    @settings(max_examples=60, deadline=None)
    def check(size: Sizes, in_columns: bool, add: bool, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        a, b = (torch.randint(-8, 9, shape, generator=g).to(dtype) for shape in ((size.m, size.k), (size.k, size.n)))
        c = torch.randint(-8, 9, (size.m + 5, size.n), generator=g).float()
        token = torch.randperm(size.m + 5, generator=g)[: size.m].int()
        wanted = c.clone()
        wanted[token.long()] = a.float() @ b.float() + (c[token.long()] if add else 0)
        multiply(folder, level, a, b, c, token, in_columns=in_columns, add=add)
        assert torch.equal(c, wanted)

    check()


@pytest.mark.parametrize("level", sorted(ROUNDING_LEVELS & set(usable_levels())))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_columns", [False, True])
def test_no_cut_of_the_rows_changes_a_bit(folder: Path, level: str, dtype: torch.dtype, *, in_columns: bool) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(93, 75, generator=g).to(dtype), torch.randn(75, 70, generator=g).to(dtype)
    whole = torch.empty(93, 70)
    multiply(folder, level, a, b, whole, torch.arange(93).int(), in_columns=in_columns, add=False)
    for cut in (1, 5, 16, 33, 80):
        parts = torch.empty(93, 70)
        for rows in (torch.arange(cut), torch.arange(cut, 93)):
            multiply(folder, level, a[rows], b, parts, rows.int(), in_columns=in_columns, add=False)
        assert torch.equal(parts, whole)


@pytest.mark.parametrize("level", sorted(ROUNDING_LEVELS & set(usable_levels())))
def test_what_is_not_a_number_stays_in_its_row(folder: Path, level: str) -> None:
    a, b, c = torch.ones(40, 50).bfloat16(), torch.ones(50, 30).bfloat16(), torch.empty(40, 30)
    a[17, 49] = float("nan")
    multiply(folder, level, a, b, c, torch.arange(40).int(), in_columns=False, add=False)
    assert c[17].isnan().all()
    assert (c[torch.arange(40) != 17] == 50).all()


def test_tile_registers_are_used_only_where_the_system_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*, permitted: bool, flags: frozenset[str]) -> tuple[str, ...]:
        monkeypatch.setattr(levels, "tiles_permitted", lambda: permitted)
        monkeypatch.setattr(levels, "cpu_flags", lambda: flags)
        return usable_levels()

    every = frozenset[str]().union(*levels._NEEDS.values())
    assert without(permitted=True, flags=every)[0] == "amx_bf16"
    assert without(permitted=False, flags=every)[0] == "avx512_bf16"
    assert without(permitted=True, flags=every - {"amx_bf16"})[0] == "avx512_bf16"


def test_permission_is_asked_for_only_with_tile_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str | None) -> Callable[..., int]:
        raise AssertionError("asked")

    monkeypatch.setattr(levels, "cpu_flags", frozenset)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert not tiles_permitted.__wrapped__()
