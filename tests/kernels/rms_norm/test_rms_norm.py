"""RMSNorm in C++ against PyTorch's in float64: values, gradients, threads, arguments."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.native.level import VARIABLE, usable_levels
from moe_search.kernels.rms_norm import backend_counts, cpu, default_backend, rms_norm

EPSILON = 1e-6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(*shape, generator=g)).to(dtype).requires_grad_()
    return x, torch.rand(shape[-1], generator=g).requires_grad_()


def run(x: Tensor, weight: Tensor, backend: str) -> tuple[Tensor, ...]:
    out = rms_norm(x, weight, epsilon=EPSILON, backend=backend)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return (out.detach(), *torch.autograd.grad(out, (x, weight), direction))


def exact(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return run(x.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), "reference")


@given(st.integers(0, 300), st.integers(1, 70), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_is_near_float64(rows: int, width: int, seed: int) -> None:
    x, weight = arguments(rows, width, seed=seed)
    for got, wanted in zip(run(x, weight, "cpu"), exact(x, weight), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("level", usable_levels())
def test_every_cpu_level(level: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, level)
    x, weight = arguments(3, 50, 4, 33, dtype=dtype)
    made = run(x, weight, "cpu")
    assert [tensor.dtype for tensor in made] == [dtype, dtype, torch.float32]
    for got, wanted in zip(made, exact(x, weight), strict=True):
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_at_any_number_of_threads(dtype: torch.dtype) -> None:
    x, weight = arguments(1000, 48, dtype=dtype)
    one = run(x, weight, "cpu")
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, run(x, weight, "cpu"), strict=True))


def test_slices_need_no_copy_by_the_caller() -> None:
    x, weight = arguments(6, 5, 8)
    part = x.transpose(0, 1)[1:4]
    torch.testing.assert_close(
        rms_norm(part, weight, epsilon=EPSILON), rms_norm(part, weight, epsilon=EPSILON, backend="reference")
    )


def test_what_is_not_a_number_stays_in_its_row() -> None:
    x, weight = arguments(5, 8)
    with torch.no_grad():
        x[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"^x has values that are not finite"):
        rms_norm(x, weight, epsilon=EPSILON)
    out = rms_norm(x, weight, epsilon=EPSILON, backend="cpu", finite=True)
    assert out.isfinite().all(dim=1).tolist() == [True, True, False, True, True]
    assert rms_norm(torch.zeros(2, 8), weight, epsilon=EPSILON).abs().max() == 0


def test_compiles_in_one_graph() -> None:
    x, weight = arguments(5, 8)
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, epsilon=EPSILON), rms_norm(x, weight, epsilon=EPSILON))


@pytest.mark.parametrize(
    ("message", "x", "weight", "backend"),
    [
        ("^x is torch.int64", torch.zeros(2, 3, dtype=torch.int64), torch.ones(3), "auto"),
        (r"^weight has .* expected \(3,\)", torch.zeros(2, 3), torch.ones(4), "auto"),
        ("^weight is on meta", torch.zeros(2, 3), torch.ones(3, device="meta"), "auto"),
        ("^x is torch.float64; backend 'cpu'", torch.zeros(2, 3, dtype=torch.float64), torch.ones(3), "cpu"),
        ("^backend is 'gpu'; known: auto, reference, cpu", torch.zeros(2, 3), torch.ones(3), "gpu"),
    ],
)
def test_wrong_arguments_are_named(message: str, x: Tensor, weight: Tensor, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        rms_norm(x, weight, epsilon=EPSILON, backend=backend)


def test_counter_and_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = arguments(2, 3)
    before = backend_counts()
    rms_norm(x, weight, epsilon=EPSILON)
    rms_norm(x.double(), weight, epsilon=EPSILON)
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.rms_norm.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("reference", "there is no C++ compiler")
    rms_norm(x, weight, epsilon=EPSILON)
    assert {name: count - before[name] for name, count in backend_counts().items()} == {"reference": 2, "cpu": 1}
