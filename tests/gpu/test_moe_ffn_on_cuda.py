"""What only a GPU can show of the Triton backend: large shapes in bfloat16, compiler, CUDA graphs, no waiting host."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from moe_search.kernels.moe_ffn import ACTIVATIONS, backend_counts, moe_ffn
from moe_search.kernels.moe_ffn.reference import reference_moe_ffn
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu

GATE = 1e-2
"""Norm of an error in bfloat16, relative to the norm of what was wanted."""

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def arguments(
    tokens: int,
    d_model: int,
    n_experts: int,
    top_k: int,
    d_expert: int,
    *,
    gated: bool = True,
    skew: float = 0.0,
    dtype: torch.dtype = torch.bfloat16,
) -> Arguments:
    g = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, device="cuda") * scale).to(dtype).requires_grad_()

    logits = torch.randn(tokens, n_experts, generator=g, device="cuda")
    logits += skew * torch.randn(n_experts, generator=g, device="cuda")
    return (
        normal(tokens, d_model),
        normal(n_experts, (2 if gated else 1) * d_expert, d_model, scale=d_model**-0.5),
        normal(n_experts, d_expert, d_model, scale=d_expert**-0.5),
        logits.topk(top_k, dim=-1).indices,
        torch.rand(tokens, top_k, generator=g, device="cuda").requires_grad_(),
    )


def gradients(out: Tensor, given: Arguments) -> tuple[Tensor, ...]:
    x, w_up, w_down, _, gates = given
    g = torch.Generator("cuda").manual_seed(1)
    direction = torch.randn(out.shape, generator=g, device="cuda").bfloat16().to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, (x, w_up, w_down, gates), direction)


def layer(*given: Tensor, activation: str = "swiglu") -> Tensor:
    x, w_up, w_down, expert_index, gates = given
    return triton_moe_ffn(x, w_up, w_down, expert_index, gates, activation=ACTIVATIONS[activation])


@pytest.mark.parametrize(
    ("shape", "activation", "skew"),
    [
        ((4096, 1024, 64, 8, 256), "swiglu", 0.5),
        ((4096, 512, 256, 16, 64), "swiglu", 0.5),
        ((2048, 256, 8, 2, 256), "geglu", 3.0),  # a hot expert, and empty ones
        ((1000, 384, 512, 10, 24), "relu2", 0.5),
        ((777, 200, 12, 12, 40), "gelu", 0.0),  # every token to every expert
        ((2000, 321, 16, 4, 33), "swiglu", 1.0),  # nothing is a multiple of anything
        ((50, 128, 4, 2, 8), "swiglu", 1.0),
        ((1, 128, 64, 8, 48), "swiglu", 1.0),
    ],
    ids=str,
)
def test_bfloat16_against_the_reference(shape: tuple[int, int, int, int, int], activation: str, skew: float) -> None:
    given = arguments(*shape, gated=ACTIVATIONS[activation].gated, skew=skew)
    exact = tuple(t.detach().double().requires_grad_() if t.is_floating_point() else t for t in given)
    wanted = gradients(reference_moe_ffn(*exact, activation=ACTIVATIONS[activation]), exact)  # type: ignore[arg-type]
    got = gradients(layer(*given, activation=activation), given)
    again = gradients(layer(*given, activation=activation), given)
    for name, a, b, c in zip(("out", "x", "w_up", "w_down", "gates"), got, wanted, again, strict=True):
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error <= GATE, f"{name}: relative error {error:.1e}"
        assert torch.equal(a, c), f"{name} differs between two runs"


def test_it_is_what_auto_takes() -> None:
    given = arguments(100, 64, 4, 2, 32)
    before = backend_counts()["triton"]
    out = moe_ffn(*given)
    assert backend_counts()["triton"] == before + 1
    assert torch.equal(out, layer(*given))


def test_offsets_beyond_32_bits() -> None:
    tokens, d_model = 65536, 4224
    x, w_up, w_down, expert_index, gates = arguments(tokens, d_model, 8, 8, 16)
    assert expert_index.numel() * d_model > 2**31
    out = layer(x, w_up, w_down, expert_index, gates)
    (grad_x,) = torch.autograd.grad(out, x, torch.ones_like(out))
    last = slice(tokens - 256, tokens)
    few = (x[last].detach().float().requires_grad_(), w_up.float(), w_down.float(), expert_index[last], gates[last])
    wanted = reference_moe_ffn(*few, activation=ACTIVATIONS["swiglu"])
    (wanted_grad,) = torch.autograd.grad(wanted, few[0], torch.ones_like(wanted))
    assert (out[last].float() - wanted).norm() <= GATE * wanted.norm()
    assert (grad_x[last].float() - wanted_grad).norm() <= GATE * wanted_grad.norm()


def test_compiles_into_one_graph() -> None:
    given = arguments(512, 128, 16, 4, 64)
    compiled = torch.compile(layer, fullgraph=True)
    for a, b in zip(gradients(compiled(*given), given), gradients(layer(*given), given), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("waiting_is_an_error")
def test_host_never_waits() -> None:
    given, other = (arguments(1024, 128, 32, 4, 64, skew=skew) for skew in (0.0, 3.0))
    direction = torch.ones_like(given[0])
    leaves = (*given[:3], given[4])
    torch.autograd.grad(layer(*given), leaves, direction)  # compiles and tunes, which does wait
    torch.cuda.set_sync_debug_mode("error")
    torch.autograd.grad(layer(*given[:3], other[3], given[4]), leaves, direction)


def test_cuda_graph_follows_new_routing() -> None:
    given = arguments(1024, 128, 32, 4, 64)
    x, w_up, w_down, expert_index, gates = given
    leaves = (x, w_up, w_down, gates)
    direction = torch.ones_like(x)

    def step() -> tuple[Tensor, ...]:
        out = layer(*given)
        return out, *torch.autograd.grad(out, leaves, direction)

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for skew in (0.0, 4.0):
        expert_index.copy_(arguments(1024, 128, 32, 4, 64, skew=skew)[3])
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_memory_kept_for_backward() -> None:
    tokens, d_model, top_k, d_expert = 8192, 512, 16, 64
    given = arguments(tokens, d_model, 64, top_k, d_expert)
    torch.autograd.grad(layer(*given).sum(), given[0])  # what tuning allocates is not the layer's
    before = torch.cuda.memory_allocated()
    out = layer(*given)
    kept = torch.cuda.memory_allocated() - before - out.numel() * 2
    elements = tokens * top_k * 2 * d_expert + tokens * d_model
    held_by_caller = tokens * d_model
    assert kept <= 1.05 * 2 * elements - 2 * held_by_caller
