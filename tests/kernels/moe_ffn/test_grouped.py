"""The grouped backend against the reference: forward, every gradient, determinism, memory."""

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.moe_ffn import ACTIVATIONS, backend_counts, grouped, moe_ffn


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_low_precision_is_near_float64(dtype: torch.dtype, tolerance: float, routing: str) -> None:
    p = problem(300, 48, 9, 3, 40, routing=routing, dtype=dtype)
    exact = Problem(*(t.detach().double().requires_grad_() if t.is_floating_point() else t for t in p))
    for got, wanted in zip(run(p, "grouped"), run(exact, "reference"), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


def test_several_waves_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(200, 16, 12, 4, 8, routing="skewed")
    one = run(p, "grouped")
    monkeypatch.setattr(grouped, "WAVE_BYTES", 64 * 16 * 8)  # two experts' padded rows of 16 float64
    plan = grouped.plan_routes(p.expert_index, 12, bytes_per_row=16 * 8)
    assert len(plan.waves) > 3
    assert all(torch.equal(a, b) for a, b in zip(one, run(p, "grouped"), strict=True))


@given(st.lists(st.integers(0, 5).map(lambda n: 32 * n), min_size=1, max_size=30), st.integers(1, 300))
def test_waves_cover_experts_and_rows_once(sizes: list[int], max_rows: int) -> None:
    waves = grouped.cut_waves(sizes, max_rows)
    assert [size for wave in waves for size in wave.sizes] == sizes
    assert (waves[0].rows.start, waves[-1].rows.stop) == (0, sum(sizes))
    for wave, following in pairwise(waves):
        assert (wave.experts.stop, wave.rows.stop) == (following.experts.start, following.rows.start)
    for wave in waves:
        assert wave.rows.stop - wave.rows.start == sum(wave.sizes)
        assert sum(wave.sizes) <= max_rows or sum(size > 0 for size in wave.sizes) == 1


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradcheck(activation: str) -> None:
    p = problem(7, 3, 4, 2, 5, activation=activation)

    def layer(x: Tensor, w_up: Tensor, w_down: Tensor, gates: Tensor) -> Tensor:
        return moe_ffn(x, w_up, w_down, p.expert_index, gates, activation=activation, backend="grouped")

    assert torch.autograd.gradcheck(layer, p.differentiable)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    p = problem(500, 32, 16, 4, 24, routing="skewed", dtype=dtype)
    first = run(p, "grouped")
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(p, "grouped"), strict=True))


def saved_bytes(p: Problem) -> int:
    """Return the bytes kept for backward, weights left out."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.data_ptr() not in (p.w_up.data_ptr(), p.w_down.data_ptr()):
            kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        moe_ffn(*p, backend="grouped")
    return kept


@pytest.mark.parametrize(("n_experts", "top_k", "d_expert"), [(4, 1, 64), (16, 4, 16), (64, 8, 8)])
def test_memory_kept_for_backward(n_experts: int, top_k: int, d_expert: int) -> None:
    tokens, d_model = 1024, 32
    p = problem(tokens, d_model, n_experts, top_k, d_expert, dtype=torch.float32)
    rows = tokens * top_k + n_experts * grouped.ROW_QUANTUM  # at most, with padding
    inputs, pre_activations = tokens * d_model * 4, rows * 2 * d_expert * 4
    indices_and_gates = (rows + 2 * tokens * top_k) * 4
    assert 0 < saved_bytes(p) <= inputs + pre_activations + indices_and_gates


def test_memory_does_not_grow_with_granularity() -> None:
    coarse = saved_bytes(problem(4096, 64, 8, 1, 256, dtype=torch.float32))
    fine = saved_bytes(problem(4096, 64, 64, 8, 32, dtype=torch.float32))
    assert fine < 1.3 * coarse


def test_frozen_gates() -> None:
    p = problem(20, 8, 4, 2, 8)
    detached = Problem(p.x, p.w_up, p.w_down, p.expert_index, p.gates.detach())
    out = moe_ffn(*detached, backend="grouped")
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert p.x.grad is not None
    assert p.w_up.grad is not None


def test_int32_indices_and_gates_of_higher_precision() -> None:
    p = problem(40, 8, 5, 2, 8, dtype=torch.bfloat16)
    wanted = moe_ffn(*p, backend="grouped")
    got = moe_ffn(p.x, p.w_up, p.w_down, p.expert_index.int(), p.gates.float(), backend="grouped")
    assert torch.equal(got, wanted)


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
    after = backend_counts()
    assert {name: after[name] - before[name] for name in after} == {"reference": 1, "grouped": 2}
