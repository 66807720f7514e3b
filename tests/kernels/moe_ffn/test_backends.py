"""Every backend for the CPU against the reference: forward, every gradient, determinism, memory."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.moe_ffn import ACTIVATIONS, backend_counts, cpu, default_backend, grouped, moe_ffn
from moe_search.kernels.native.level import VARIABLE, usable_levels


class Problem(NamedTuple):
    """Arguments of the layer; all but ``expert_index`` want gradients."""

    x: Tensor
    w_up: Tensor
    w_down: Tensor
    expert_index: Tensor
    gates: Tensor

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        return self.x, self.w_up, self.w_down, self.gates


ROUTINGS = ("even", "skewed", "hot", "same")
FAST = ("grouped", "cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(
    tokens: int,
    d_model: int,
    n_experts: int,
    top_k: int,
    d_expert: int,
    *,
    activation: str = "swiglu",
    routing: str = "even",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    halves = 2 if ACTIVATIONS[activation].gated else 1
    logits = torch.randn(tokens, n_experts, generator=g)
    match routing:
        case "skewed":
            logits += 2 * torch.randn(n_experts, generator=g)
        case "hot":
            logits[:, 0] += 100  # every token takes expert 0
        case "same":
            logits = logits[:1].expand(tokens, -1)  # all tokens take the same experts: the others are empty
        case _:
            pass
    return Problem(
        x=normal(tokens, d_model),
        w_up=normal(n_experts, halves * d_expert, d_model, scale=d_model**-0.5),
        w_down=normal(n_experts, d_expert, d_model, scale=d_expert**-0.5),
        expert_index=logits.topk(top_k, dim=-1).indices,
        gates=torch.rand(tokens, top_k, generator=g, dtype=torch.float64).to(dtype).requires_grad_(),
    )


def widened(p: Problem) -> Problem:
    return Problem(*(t.detach().double().requires_grad_() if t.is_floating_point() else t for t in p))


def run(p: Problem, backend: str, activation: str = "swiglu") -> tuple[Tensor, ...]:
    """Return the output and the gradients of a random projection of it."""
    out = moe_ffn(*p, activation=activation, backend=backend)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, p.differentiable, direction))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Draw tokens, d_model, n_experts, top_k, d_expert."""
    n_experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, n_experts))
    return draw(st.integers(0, 90)), draw(st.integers(1, 20)), n_experts, top_k, draw(st.integers(1, 20))


@given(shapes(), st.sampled_from(ROUTINGS), st.sampled_from(sorted(ACTIVATIONS)), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_equals_reference_in_float64(
    shape: tuple[int, int, int, int, int], routing: str, activation: str, seed: int
) -> None:
    p = problem(*shape, routing=routing, activation=activation, seed=seed)
    for got, wanted in zip(run(p, "grouped", activation), run(p, "reference", activation), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@given(shapes(), st.sampled_from(ROUTINGS), st.sampled_from(sorted(ACTIVATIONS)), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_compiled_is_near_float64(
    shape: tuple[int, int, int, int, int], routing: str, activation: str, seed: int
) -> None:
    p = problem(*shape, routing=routing, activation=activation, seed=seed, dtype=torch.float32)
    for got, wanted in zip(run(p, "cpu", activation), run(widened(p), "reference", activation), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


SHAPES = {
    "several tiles and chunks": (700, 48, 3, 2, 40),
    "odd sizes": (150, 33, 7, 3, 13),
    "narrow experts": (300, 72, 6, 6, 8),
    "wide panels": (90, 200, 2, 1, 120),
    "many experts": (64, 24, 512, 16, 16),
    "one expert": (300, 40, 1, 1, 24),
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
    p = problem(*shape, dtype=dtype, routing="skewed")
    for got, wanted in zip(run(p, "cpu"), run(widened(p), "reference"), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("backend", FAST)
def test_low_precision_is_near_float64(backend: str, dtype: torch.dtype, tolerance: float, routing: str) -> None:
    p = problem(300, 48, 9, 3, 40, routing=routing, dtype=dtype)
    for got, wanted in zip(run(p, backend), run(widened(p), "reference"), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradcheck(activation: str) -> None:
    p = problem(7, 3, 4, 2, 5, activation=activation)

    def layer(x: Tensor, w_up: Tensor, w_down: Tensor, gates: Tensor) -> Tensor:
        return moe_ffn(x, w_up, w_down, p.expert_index, gates, activation=activation, backend="grouped")

    assert torch.autograd.gradcheck(layer, p.differentiable)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", FAST)
def test_same_bits_every_time(backend: str, dtype: torch.dtype) -> None:
    p = problem(500, 32, 16, 4, 24, routing="skewed", dtype=dtype)
    first = run(p, backend)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(p, backend), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(700, 150, 3, 2, 40), (90, 40, 64, 8, 16), (5, 8, 4, 2, 8)])
@pytest.mark.parametrize("routing", ["skewed", "same"])
def test_same_bits_at_any_number_of_threads(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int], routing: str
) -> None:
    p = problem(*shape, routing=routing, dtype=dtype)
    one = run(p, "cpu")
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, run(p, "cpu"), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_what_is_not_a_number_stays_in_its_token(value: float, activation: str) -> None:
    p = problem(90, 24, 4, 2, 24, activation=activation, dtype=torch.float32)
    clean = moe_ffn(*p, activation=activation, backend="cpu")
    with torch.no_grad():
        p.x[17, 5] = value
    out = moe_ffn(*p, activation=activation, backend="cpu", finite=True)
    assert not out[17].isfinite().any()
    others = torch.arange(90) != 17
    assert torch.equal(out[others], clean[others])


def test_compiles_in_one_graph() -> None:
    p = problem(60, 16, 4, 2, 8, dtype=torch.float32)
    compiled = torch.compile(moe_ffn, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*p), moe_ffn(*p))
    got = torch.autograd.grad(compiled(*p).square().sum(), p.differentiable)
    wanted = torch.autograd.grad(moe_ffn(*p).square().sum(), p.differentiable)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_operators_keep_their_contract() -> None:
    p = problem(30, 8, 4, 2, 8, dtype=torch.float32)
    x, w_up, w_down, expert_index, gates = p
    torch.library.opcheck(torch.ops.moe_search.moe_ffn_cpu, (x, w_up, w_down, expert_index.int(), gates, "swiglu"))


def saved_bytes(p: Problem, backend: str) -> int:
    """Return the bytes kept for backward, weights left out."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.data_ptr() not in (p.w_up.data_ptr(), p.w_down.data_ptr()):
            kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        moe_ffn(*p, backend=backend)
    return kept


@pytest.mark.parametrize(("n_experts", "top_k", "d_expert"), [(4, 1, 64), (16, 4, 16), (64, 8, 8)])
@pytest.mark.parametrize("backend", FAST)
def test_memory_kept_for_backward(backend: str, n_experts: int, top_k: int, d_expert: int) -> None:
    tokens, d_model = 1024, 32
    p = problem(tokens, d_model, n_experts, top_k, d_expert, dtype=torch.float32)
    padding = n_experts * grouped.ROW_QUANTUM if backend == "grouped" else 0
    rows = tokens * top_k + padding  # at most
    inputs, pre_activations = tokens * d_model * 4, rows * 2 * d_expert * 4
    indices_and_gates = (rows + 2 * tokens * top_k) * 4
    assert 0 < saved_bytes(p, backend) <= inputs + pre_activations + indices_and_gates


@pytest.mark.parametrize("backend", FAST)
def test_memory_does_not_grow_with_granularity(backend: str) -> None:
    coarse = saved_bytes(problem(4096, 64, 8, 1, 256, dtype=torch.float32), backend)
    fine = saved_bytes(problem(4096, 64, 64, 8, 32, dtype=torch.float32), backend)
    assert fine < 1.3 * coarse


@pytest.mark.parametrize("backend", FAST)
def test_frozen_gates(backend: str) -> None:
    p = problem(20, 8, 4, 2, 8, dtype=torch.float32)
    detached = Problem(p.x, p.w_up, p.w_down, p.expert_index, p.gates.detach())
    out = moe_ffn(*detached, backend=backend)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert p.x.grad is not None
    assert p.w_up.grad is not None


@pytest.mark.parametrize("backend", FAST)
def test_int32_indices_and_gates_of_higher_precision(backend: str) -> None:
    p = problem(40, 8, 5, 2, 8, dtype=torch.bfloat16)
    wanted = moe_ffn(*p, backend=backend)
    got = moe_ffn(p.x, p.w_up, p.w_down, p.expert_index.int(), p.gates.float(), backend=backend)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("level", usable_levels())
def test_autocast_rounds_float32_weights_like_a_cast_and_not_their_gradients(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, level)
    p = problem(300, 33, 6, 2, 13, dtype=torch.float32)
    x = p.x.detach().bfloat16().requires_grad_()
    rounded = Problem(x, p.w_up.bfloat16(), p.w_down.bfloat16(), p.expert_index, p.gates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = moe_ffn(x, *p[1:], backend="cpu")
    wanted = moe_ffn(*rounded, backend="cpu")
    assert torch.equal(out, wanted)
    got = torch.autograd.grad(out.float().square().sum(), (x, p.w_up, p.w_down))
    want = torch.autograd.grad(wanted.float().square().sum(), (x, p.w_up, p.w_down))
    assert torch.equal(got[0], want[0])
    for mine, cast in zip(got[1:], want[1:], strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine.bfloat16().float(), cast)


def test_autocast_casts_inputs_and_returns_gradients_in_float32() -> None:
    p = problem(40, 8, 5, 2, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = moe_ffn(*p)
    assert out.dtype == torch.bfloat16
    for gradient in torch.autograd.grad(out.float().sum(), p.differentiable):
        assert gradient.dtype == torch.float32


def test_counter_tells_which_backend_ran() -> None:
    p = problem(4, 4, 2, 1, 4)
    before = backend_counts()
    moe_ffn(*p)
    moe_ffn(*p, backend="grouped")
    moe_ffn(*p, backend="reference")
    moe_ffn(*problem(4, 4, 2, 1, 4, dtype=torch.float32))
    ran = {name: count - before[name] for name, count in backend_counts().items()}
    assert {name: count for name, count in ran.items() if count} == {"reference": 1, "grouped": 2, "cpu": 1}


def test_without_a_compiler_the_grouped_backend_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.moe_ffn.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("grouped", "there is no C++ compiler")
    p = problem(4, 4, 2, 1, 4, dtype=torch.float32)
    before = backend_counts()["grouped"]
    moe_ffn(*p)
    assert backend_counts()["grouped"] == before + 1
    with pytest.raises(ValueError, match=r"^backend is 'cpu', which is not available: there is no C"):
        moe_ffn(*p, backend="cpu")
