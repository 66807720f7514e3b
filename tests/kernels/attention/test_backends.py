"""Every backend for the CPU against the reference: forward, every gradient, determinism, memory."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.attention import backend_counts, causal_attention, cpu, default_backend
from moe_search.kernels.native.level import VARIABLE, usable_levels

FAST = ("sdpa", "cpu")


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


class Problem(NamedTuple):
    """One projection that queries, keys and values are slices of, as in the model."""

    heads: Tensor
    """(batch, seq, n_heads + 2 * n_kv_heads, head_dim)"""
    n_kv_heads: int

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        n_heads = self.heads.shape[2] - 2 * self.n_kv_heads
        return torch.split(self.heads, [n_heads, self.n_kv_heads, self.n_kv_heads], dim=2)


def problem(
    batch: int,
    seq: int,
    n_kv_heads: int,
    group: int,
    head_dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    spread: float = 1.0,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)
    heads = torch.randn(batch, seq, (group + 2) * n_kv_heads, head_dim, generator=g, dtype=torch.float64) * spread
    return Problem(heads.to(dtype).requires_grad_(), n_kv_heads)


def widened(p: Problem) -> Problem:
    return Problem(p.heads.detach().double().requires_grad_(), p.n_kv_heads)


def run(p: Problem, backend: str, scale: float | None = None) -> tuple[Tensor, ...]:
    """Return the output and the gradients of a random projection of it."""
    q, k, v = p.arguments
    out = causal_attention(q, k, v, scale=scale, backend=backend)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, (q, k, v), direction))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Draw batch, seq, n_kv_heads, group, head_dim."""
    return (
        draw(st.integers(0, 2)),
        draw(st.integers(0, 120)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 70)),
    )


@given(shapes(), st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([None, 0.3, -0.2, 1]), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_compiled_is_near_float64(
    shape: tuple[int, int, int, int, int], spread: float, scale: float | None, seed: int
) -> None:
    p = problem(*shape, spread=spread, seed=seed)
    for got, wanted in zip(run(p, "cpu", scale), run(widened(p), "reference", scale), strict=True):
        assert got.is_contiguous()
        # The gradient of a lone query is the difference of equal terms: what is left of it is their rounding.
        assert (got.double() - wanted).norm() <= 1e-4 * (1 + spread**2) * (wanted.norm() + 1)


@given(shapes(), st.sampled_from([None, 0.3]), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_sdpa_equals_reference_in_float64(
    shape: tuple[int, int, int, int, int], scale: float | None, seed: int
) -> None:
    p = problem(*shape, seed=seed, dtype=torch.float64)
    for got, wanted in zip(run(p, "sdpa", scale), run(p, "reference", scale), strict=True):
        assert got.is_contiguous()
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


SHAPES = {
    "one token": (2, 1, 2, 2, 24),
    "odd sizes": (1, 77, 2, 3, 13),
    "one block of keys": (1, 256, 1, 2, 32),
    "several blocks of keys": (1, 1000, 1, 1, 64),
    "narrow heads": (1, 300, 2, 1, 8),
    "wide heads": (1, 130, 1, 1, 256),
    "one column": (1, 90, 1, 1, 1),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("level", usable_levels())
def test_every_cpu_level(
    level: str,
    shape: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, level)
    assert cpu.library().level == level
    p = problem(*shape, dtype=dtype)
    for got, wanted in zip(run(p, "cpu"), run(widened(p), "reference"), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm() + 5e-6  # gradients of one token are 0


def test_four_thousand_tokens() -> None:
    p = problem(1, 4096, 1, 1, 16)
    for got, wanted in zip(run(p, "cpu"), run(p, "sdpa"), strict=True):
        assert (got - wanted).norm() <= 3e-6 * wanted.norm()


def test_gradcheck() -> None:
    q, k, v = problem(1, 5, 1, 2, 3, dtype=torch.float64).arguments
    assert torch.autograd.gradcheck(lambda q, k, v: causal_attention(q, k, v, backend="reference"), (q, k, v))


def test_any_strides() -> None:
    p = problem(2, 50, 2, 2, 12)
    wanted = run(p, "cpu")
    transposed = Problem(p.heads.detach().permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0).requires_grad_(), 2)
    assert transposed.heads.stride(-1) != 1
    assert all(torch.equal(a, b) for a, b in zip(run(transposed, "cpu"), wanted, strict=True))
    heads_first = Problem(p.heads.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(), 2)
    assert all(torch.equal(a, b) for a, b in zip(run(heads_first, "cpu"), wanted, strict=True))


@pytest.mark.parametrize("backend", FAST)
def test_gradient_that_is_not_contiguous(backend: str) -> None:
    q, k, v = problem(1, 20, 1, 2, 8).arguments
    out = causal_attention(q, k, v, backend=backend)
    direction = torch.randn(1, 2, 8, 20, generator=torch.Generator().manual_seed(3)).permute(0, 3, 1, 2)
    got = torch.autograd.grad(out, (q, k, v), direction, retain_graph=True)
    wanted = torch.autograd.grad(out, (q, k, v), direction.contiguous())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 200, 3, 2, 24), (1, 600, 1, 1, 32), (5, 40, 1, 1, 8)])
def test_same_bits_at_any_number_of_threads(dtype: torch.dtype, shape: tuple[int, int, int, int, int]) -> None:
    p = problem(*shape, dtype=dtype)
    torch.set_num_threads(1)
    one = run(p, "cpu")
    for threads in (1, 3, 7):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, run(p, "cpu"), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seq", [77, 300])
def test_the_past_does_not_depend_on_the_future(dtype: torch.dtype, seq: int) -> None:
    p = problem(1, seq, 1, 1, 24, dtype=dtype)
    whole = causal_attention(*p.arguments, backend="cpu")
    for length in (1, 30, 31, 64, seq - 1):
        part = causal_attention(*(x[:, :length] for x in p.arguments), backend="cpu")
        assert torch.equal(part, whole[:, :length])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["q", "k", "v"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_is_not_a_number_comes_out(backend: str, which: str, value: float) -> None:
    p = problem(1, 90, 2, 1, 24)
    q, k, v = (x.detach().clone() for x in p.arguments)
    {"q": q, "k": k, "v": v}[which][0, 40, 0, 5] = value
    out = causal_attention(q, k, v, backend=backend, finite=True)
    assert out[0, :, 1].isfinite().all()  # the other head
    if which == "q":
        assert not out[0, 40, 0].isfinite().any()
        assert out[0, :40, 0].isfinite().all()
        assert out[0, 41:, 0].isfinite().all()
    else:
        seen = out[0, 40:, 0, 5] if which == "v" else out[0, 40:, 0]
        assert not seen.isfinite().all(dim=-1).any() if value != value else not seen.isfinite().all()


def test_large_scores_do_not_overflow() -> None:
    p = problem(1, 50, 1, 1, 16, spread=30.0)
    for got, wanted in zip(run(p, "cpu"), run(widened(p), "reference"), strict=True):
        assert (got.double() - wanted).norm() <= 1e-3 * wanted.norm()


def test_compiles_in_one_graph() -> None:
    p = problem(2, 40, 2, 2, 16)
    compiled = torch.compile(causal_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*p.arguments), causal_attention(*p.arguments))
    (got,) = torch.autograd.grad(compiled(*p.arguments).square().sum(), p.heads)
    (wanted,) = torch.autograd.grad(causal_attention(*p.arguments).square().sum(), p.heads)
    assert torch.equal(got, wanted)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    p = problem(2, 40, 2, 2, 16)

    def around(heads: Tensor) -> Tensor:
        q, k, v = torch.split(heads * 2, [4, 2, 2], dim=2)
        return causal_attention(q + 1, k, v) * 3

    compiled = torch.compile(around, fullgraph=True)
    torch.testing.assert_close(compiled(p.heads), around(p.heads))
    (got,) = torch.autograd.grad(compiled(p.heads).square().sum(), p.heads)
    (wanted,) = torch.autograd.grad(around(p.heads).square().sum(), p.heads)
    torch.testing.assert_close(got, wanted)


def test_operator_keeps_its_contract() -> None:
    arguments = problem(1, 30, 1, 2, 8).arguments
    torch.library.opcheck(torch.ops.moe_search.causal_attention_cpu, (*arguments, 0.3))


@pytest.mark.parametrize("seq", [64, 512])
def test_memory_kept_for_backward(seq: int) -> None:
    p = problem(2, seq, 2, 2, 32)
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = causal_attention(*p.arguments, backend="cpu")
    log_totals = 2 * seq * 4
    assert sum(kept.values()) == 4 * (p.heads.numel() + out.numel() + log_totals)


def test_autocast_casts_inputs_and_returns_gradients_in_float32() -> None:
    p = problem(1, 20, 1, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = causal_attention(*p.arguments)
    assert out.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(out.float().sum(), p.heads)
    assert gradient.dtype == torch.float32


def test_counter_tells_which_backend_ran() -> None:
    p = problem(1, 4, 1, 1, 4)
    before = backend_counts()
    causal_attention(*widened(p).arguments)
    causal_attention(*p.arguments, backend="sdpa")
    causal_attention(*p.arguments, backend="reference")
    causal_attention(*p.arguments)
    ran = {name: count - before[name] for name, count in backend_counts().items()}
    assert ran == {"reference": 1, "sdpa": 2, "cpu": 1}


def test_without_a_compiler_sdpa_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.attention.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("sdpa", "there is no C++ compiler")
    p = problem(1, 4, 1, 1, 4)
    before = backend_counts()["sdpa"]
    causal_attention(*p.arguments)
    assert backend_counts()["sdpa"] == before + 1
    with pytest.raises(ValueError, match=r"^backend is 'cpu', which is not available: there is no C"):
        causal_attention(*p.arguments, backend="cpu")


def test_other_devices_and_types_take_sdpa() -> None:
    assert default_backend("cuda", torch.bfloat16)[0] == "sdpa"
    assert default_backend("cpu", torch.float64)[0] == "sdpa"
