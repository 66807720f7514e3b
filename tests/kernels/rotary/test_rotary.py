"""Rotary positions in C++ against the reference in float64: values, gradients, strides, arguments."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.kernels.native.level import VARIABLE, usable_levels
from moe_search.kernels.rotary import backend_counts, cpu, default_backend, rotary


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(
    batch: int, seq: int, heads: int, half: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    angle = 6 * torch.rand(seq, half, generator=g)
    whole = torch.randn(batch, seq, heads + 3, 2 * half, generator=g).to(dtype)
    return [whole[:, :, 1 : heads + 1].requires_grad_(), angle.cos(), angle.sin()]


def run(arguments: list[Tensor], backend: str) -> tuple[Tensor, Tensor]:
    out = rotary(*arguments, backend=backend)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, arguments[0], direction)[0]


def exact(arguments: list[Tensor]) -> tuple[Tensor, Tensor]:
    return run([arguments[0].detach().double().requires_grad_(), *(a.double() for a in arguments[1:])], "reference")


@given(st.integers(0, 3), st.integers(1, 20), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_is_near_float64(batch: int, seq: int, heads: int, half: int, seed: int) -> None:
    given_ = arguments(batch, seq, heads, half, seed=seed)
    for got, wanted in zip(run(given_, "cpu"), exact(given_), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("level", usable_levels())
def test_every_cpu_level(level: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, level)
    given_ = arguments(2, 30, 3, 20, dtype=dtype)
    for got, wanted in zip(run(given_, "cpu"), exact(given_), strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


def test_lengths_of_pairs_and_products_of_equal_distance_stay() -> None:
    x, _, _ = arguments(1, 8, 1, 4)
    angle = torch.outer(torch.arange(8.0), torch.rand(4))
    turned = rotary(x.detach(), angle.cos(), angle.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.detach().norm(dim=-1))
    q = rotary(x.detach()[:, :1].expand(1, 8, 1, 8), angle.cos(), angle.sin())[0, :, 0]
    scores = q @ q.T
    torch.testing.assert_close(scores.diagonal(3), scores[0, 3].expand(5))


def test_same_bits_at_any_number_of_threads() -> None:
    given_ = arguments(3, 40, 2, 16)
    one = run(given_, "cpu")
    torch.set_num_threads(3)
    assert all(torch.equal(a, b) for a, b in zip(one, run(given_, "cpu"), strict=True))


def test_compiles_in_one_graph() -> None:
    given_ = arguments(2, 5, 2, 8)
    assert torch.equal(torch.compile(rotary, fullgraph=True, backend="aot_eager")(*given_), rotary(*given_))


@pytest.mark.parametrize(
    ("message", "position", "value"),
    [
        ("^x has .* an even head_dim", 0, torch.zeros(2, 3, 1, 5)),
        ("^x is torch.int64", 0, torch.zeros(2, 3, 1, 4, dtype=torch.int64)),
        (r"^cosines has .* expected \(3, 2\)", 1, torch.zeros(2, 2)),
        (r"^sines has .* expected \(3, 2\)", 2, torch.zeros(3, 4)),
        ("^x has values that are not finite", 0, torch.full((2, 3, 1, 4), torch.inf)),
        ("^cosines has values that are not finite", 1, torch.full((3, 2), torch.nan)),
        ("^sines is on meta", 2, torch.zeros(3, 2, device="meta")),
    ],
)
def test_wrong_arguments_are_named(message: str, position: int, value: Tensor) -> None:
    right = [torch.zeros(2, 3, 1, 4), torch.zeros(3, 2), torch.zeros(3, 2)]
    right[position] = value
    with pytest.raises(ValueError, match=message):
        rotary(*right)


def test_counter_and_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = arguments(1, 3, 1, 2)
    before = backend_counts()
    rotary(*given_).sum().backward()  # type: ignore[no-untyped-call]
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.rotary.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("reference", "there is no C++ compiler")
    rotary(*given_)
    assert {name: count - before[name] for name, count in backend_counts().items()} == {"reference": 1, "cpu": 1}
    with pytest.raises(ValueError, match=r"^backend is 'gpu'; known: auto, reference, cpu"):
        rotary(*given_, backend="gpu")
