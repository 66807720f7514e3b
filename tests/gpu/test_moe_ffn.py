"""The Triton backend against the reference in float64: forward and every gradient, on the GPU or in the interpreter.

Where there is no GPU, ``tests/kernels/moe_ffn/test_triton.py`` runs this file in a process of its own with
TRITON_INTERPRET=1: the kernels then compute on CPU tensors.
"""

import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from moe_search.kernels.moe_ffn import ACTIVATIONS, backend_counts
from moe_search.kernels.moe_ffn.reference import reference_moe_ffn
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("needs a CUDA device", allow_module_level=True)

from moe_search.kernels.moe_ffn.triton import layer, routing  # noqa: E402 -- they import triton, which needs no import where we skip

pytestmark = [] if INTERPRETED else [pytest.mark.gpu]

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.5e-2}
"""Of the norm of an error, relative to the norm of what was wanted: some five roundings (the interpreter, which cuts
numbers off to bfloat16 instead of rounding them, makes eight)."""


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


def problem(
    tokens: int,
    d_model: int,
    n_experts: int,
    top_k: int,
    d_expert: int,
    *,
    activation: str = "swiglu",
    routing: str = "even",
    dtype: torch.dtype = torch.float32,
) -> Problem:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(DEVICE, dtype).requires_grad_()

    halves = 2 if ACTIVATIONS[activation].gated else 1
    logits = torch.randn(tokens, n_experts, generator=g)
    if routing == "skewed":
        logits += 2 * torch.randn(n_experts, generator=g)
    elif routing == "hot":
        logits[:, 0] += 100  # every token takes expert 0
    elif routing == "same":
        logits = logits[:1].expand(tokens, -1)  # all tokens take the same experts: the others are empty
    return Problem(
        x=normal(tokens, d_model),
        w_up=normal(n_experts, halves * d_expert, d_model, scale=d_model**-0.5),
        w_down=normal(n_experts, d_expert, d_model, scale=d_expert**-0.5),
        expert_index=logits.topk(top_k, dim=-1).indices.to(DEVICE),
        gates=torch.rand(tokens, top_k, generator=g).to(DEVICE).requires_grad_(),
    )


def run(p: Problem, activation: str = "swiglu") -> tuple[Tensor, ...]:
    """Return the output and the gradients of a random projection of it."""
    return with_gradients(triton_moe_ffn(*p, activation=ACTIVATIONS[activation]), p)


def exact(p: Problem, activation: str = "swiglu") -> tuple[Tensor, ...]:
    """Return what ``run`` should, computed by the reference in float64."""
    double = Problem(*(t.detach().double().requires_grad_() if t.is_floating_point() else t for t in p))
    return with_gradients(reference_moe_ffn(*double, activation=ACTIVATIONS[activation]), double)


def with_gradients(out: Tensor, p: Problem) -> tuple[Tensor, ...]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = direction.bfloat16().to(out)  # the same numbers in every type
    return (out.detach(), *torch.autograd.grad(out, p.differentiable, direction))


def assert_near(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for name, a, b in zip(("out", "x", "w_up", "w_down", "gates"), got, wanted, strict=True):
        error = ((a.double() - b).norm() / b.norm().clamp_min(1e-30)).item()
        assert error <= TOLERANCE[dtype], f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize(
    ("shape", "activation", "routing", "dtype"),
    [
        ((24, 24, 4, 2, 24), "swiglu", "even", torch.float32),
        ((17, 24, 3, 2, 48), "geglu", "skewed", torch.float16),
        ((40, 16, 7, 2, 8), "relu2", "same", torch.float32),
        ((20, 20, 4, 4, 8), "gelu", "even", torch.float32),  # every token to every expert
        ((70, 16, 6, 1, 12), "swiglu", "hot", torch.float32),
        ((20, 16, 3, 2, 33), "swiglu", "even", torch.bfloat16),
        ((30, 7, 1, 1, 5), "geglu", "even", torch.float32),  # one expert, odd sizes
        ((1, 8, 130, 3, 8), "swiglu", "even", torch.float32),
    ],
    ids=str,
)
def test_forward_and_gradients(
    shape: tuple[int, int, int, int, int], activation: str, routing: str, dtype: torch.dtype
) -> None:
    p = problem(*shape, activation=activation, routing=routing, dtype=dtype)
    got = run(p, activation)
    assert [t.dtype for t in got] == [dtype] * 4 + [torch.float32]
    assert_near(got, exact(p, activation), dtype)


def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "SORT_BLOCK", 64)
    monkeypatch.setattr(routing, "CHUNK_BYTES", 1024)
    monkeypatch.setattr(routing, "CHUNK_ROWS", 1)
    assert layer._plan(torch.empty(90, 16), torch.empty(90, 2), 3).n_chunks == 3


def test_several_chunks_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    several_chunks(monkeypatch)
    p = problem(90, 16, 3, 2, 8, routing="skewed")
    assert_near(run(p), exact(p), torch.float32)


@pytest.mark.parametrize("index_type", [torch.int64, torch.int32])
def test_slots_are_sorted_and_cut_into_tiles(monkeypatch: pytest.MonkeyPatch, index_type: torch.dtype) -> None:
    several_chunks(monkeypatch)
    n_experts = 3
    expert_index = problem(90, 16, n_experts, 2, 8, routing="skewed").expert_index.to(index_type)
    plan = layer._plan(torch.empty(90, 16), expert_index, n_experts)
    row_of_slot, group_start = routing.sort_slots(expert_index, n_experts, plan)

    slot = torch.arange(180, device=DEVICE)
    group = slot // (plan.blocks_per_chunk * routing.SORT_BLOCK) * n_experts + expert_index.flatten()
    order = torch.argsort(group, stable=True)
    assert torch.equal(routing.slots_of_rows(row_of_slot).long(), order)
    assert torch.equal(row_of_slot.flatten().long(), torch.argsort(order))
    counts = torch.bincount(group, minlength=plan.n_chunks * n_experts)
    assert group_start.tolist() == [0, *counts.cumsum(0).tolist()]

    wanted = [
        [g % n_experts, begin, end]
        for g, (first, end) in enumerate(zip(group_start.tolist(), group_start.tolist()[1:], strict=False))
        for begin in range(first, end, plan.block_m)
    ]
    tiles = routing.cut_tiles(group_start, n_experts, plan).tolist()
    assert tiles[: len(wanted)] == wanted
    assert all(tile == [0, 0, 0] for tile in tiles[len(wanted) :])


def test_same_bits_every_time() -> None:
    p = problem(30, 24, 3, 2, 8, routing="skewed")
    first, again = run(p), run(p)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_index_out_of_range_makes_its_token_nan_and_no_other() -> None:
    p = problem(20, 16, 4, 2, 8)
    out = triton_moe_ffn(*p, activation=ACTIVATIONS["swiglu"])
    p.expert_index[3, 0], p.expert_index[7, 1] = 4, -1
    broken = triton_moe_ffn(*p, activation=ACTIVATIONS["swiglu"])
    others = [t for t in range(20) if t not in (3, 7)]
    assert broken[[3, 7]].isnan().all()
    torch.testing.assert_close(broken[others], out[others])


def test_nan_stays_with_its_token() -> None:
    p = problem(20, 16, 4, 2, 8, activation="relu2")
    with torch.no_grad():
        p.x[5, 2] = float("nan")
        out = triton_moe_ffn(*p, activation=ACTIVATIONS["relu2"])
    assert out[5].isnan().all()
    assert out[[t for t in range(20) if t != 5]].isfinite().all()


def test_views_and_frozen_arguments() -> None:
    p = problem(20, 16, 4, 2, 8)
    views = Problem(
        p.x.detach().T.contiguous().T.requires_grad_(),
        p.w_up.detach().mT.contiguous().mT.requires_grad_(),
        p.w_down.detach(),
        p.expert_index.T.contiguous().T,
        p.gates.detach().T.contiguous().T,
    )
    out = triton_moe_ffn(*views, activation=ACTIVATIONS["swiglu"])
    grads = torch.autograd.grad(out, (views.x, views.w_up), torch.ones_like(out))
    wanted_out = triton_moe_ffn(*p, activation=ACTIVATIONS["swiglu"])
    wanted = torch.autograd.grad(wanted_out, (p.x, p.w_up), torch.ones_like(out))
    assert torch.equal(out, wanted_out)
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted, strict=True))


def test_nothing_is_kept_without_gradients() -> None:
    p = problem(20, 16, 4, 2, 8)
    before = backend_counts()["triton"]
    x, w_up, w_down, expert_index, gates = (t.detach() for t in p)
    out, h, *_ = layer.forward(x, w_up, w_down, expert_index, gates, "swiglu", False)
    assert h.numel() == 0
    assert backend_counts()["triton"] == before + 1
    assert torch.equal(out, run(p)[0])


@pytest.mark.parametrize("shape", [(0, 8, 4, 2, 8), (6, 8, 4, 0, 8)])
def test_nothing_to_route(shape: tuple[int, int, int, int, int]) -> None:
    p = problem(*shape)
    out, *gradients = run(p)
    assert torch.equal(out, torch.zeros_like(p.x))
    assert all(torch.equal(g, torch.zeros_like(t)) for g, t in zip(gradients, p.differentiable, strict=True))


def test_operators_are_registered_as_torch_wants_them() -> None:
    p = problem(5, 16, 2, 1, 8)
    torch.library.opcheck(layer.forward, (*p, "swiglu", True))
    h, row_of_slot, group_start = layer.forward(*p, "swiglu", True)[1:]
    x, w_up, w_down, _, gates = (t.detach() for t in p)
    arguments = (torch.ones_like(x), x, w_up, w_down, gates, h.detach(), row_of_slot, group_start, "swiglu")
    torch.library.opcheck(layer.backward, arguments)


@pytest.mark.parametrize("activation", ["geglu", "relu2"])
def test_compiles_into_one_graph(activation: str) -> None:
    p = problem(20, 16, 4, 2, 8, activation=activation)
    compiled = torch.compile(
        lambda *arguments: triton_moe_ffn(*arguments, activation=ACTIVATIONS[activation]),
        fullgraph=True,
        backend="aot_eager",
    )
    got, wanted = with_gradients(compiled(*p), p), run(p, activation)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_memory_kept_for_backward() -> None:
    tokens, d_model, top_k, d_expert = 64, 32, 2, 32
    p = problem(tokens, d_model, 2, top_k, d_expert, dtype=torch.bfloat16)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in (p.w_up.data_ptr(), p.w_down.data_ptr(), p.gates.data_ptr()):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        triton_moe_ffn(*p, activation=ACTIVATIONS["swiglu"])
    elements = tokens * top_k * 2 * d_expert + tokens * d_model
    assert 2 * elements <= sum(kept.values()) <= 1.05 * 2 * elements
