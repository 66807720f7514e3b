"""Every backend against the whole logits in float64: loss, both gradients, determinism, what it does not compute."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.loss_head import (
    backend_counts,
    chunked,
    cpu,
    default_backend,
    linear_cross_entropy,
    sums_by_group,
)
from moe_search.kernels.native.level import VARIABLE, usable_levels


class Problem(NamedTuple):
    """Arguments of the loss."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor


FAST = ("chunked", "cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def problem(
    tokens: int, d_model: int, vocabulary: int, *, dtype: torch.dtype = torch.float32, scale: float = 2.0, seed: int = 0
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    return Problem(
        normal(tokens, d_model, scale=1.0),
        normal(vocabulary, d_model, scale=scale * d_model**-0.5),
        torch.randint(0, vocabulary, (tokens,), generator=g),
    )


def widened(p: Problem) -> Problem:
    return Problem(p.hidden.detach().double().requires_grad_(), p.weight.detach().double().requires_grad_(), p.targets)


def run(p: Problem, backend: str) -> tuple[Tensor, ...]:
    """Return the sum, the tokens' losses and the gradients of three times the sum."""
    total, nats = linear_cross_entropy(*p, backend=backend, finite=True)  # values are other tests' matter
    return (total.detach(), nats, *torch.autograd.grad(3 * total, (p.hidden, p.weight)))


def test_reference_is_torchs_cross_entropy() -> None:
    p = problem(20, 6, 30, dtype=torch.float64)
    total, nats = linear_cross_entropy(*p, backend="reference")
    wanted = functional.cross_entropy(p.hidden @ p.weight.T, p.targets, reduction="none")
    torch.testing.assert_close(nats, wanted.detach())
    torch.testing.assert_close(total, wanted.sum())
    assert not nats.requires_grad


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_gradcheck(backend: str) -> None:
    p = problem(7, 3, 5, dtype=torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, p.targets, backend=backend)[0]

    assert torch.autograd.gradcheck(loss, (p.hidden, p.weight))


shapes = st.tuples(st.integers(0, 150), st.integers(1, 20), st.integers(1, 40))


@given(shapes, st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_chunked_equals_reference_in_float64(shape: tuple[int, int, int], seed: int) -> None:
    p = problem(*shape, dtype=torch.float64, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK_ENTRIES", 3 * shape[2])
        got = run(p, "chunked")
    for one, wanted in zip(got, run(p, "reference"), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


@given(shapes, st.integers(0, 2**16))
@settings(max_examples=150, deadline=None)
def test_compiled_is_near_float64(shape: tuple[int, int, int], seed: int) -> None:
    p = problem(*shape, seed=seed)
    for got, wanted in zip(run(p, "cpu"), run(widened(p), "reference"), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


SHAPES = {
    "several chunks and blocks": (300, 24, 700),
    "odd sizes": (131, 33, 517),
    "whole blocks": (256, 16, 512),
    "just over a block": (128, 40, 257),
    "one token": (1, 8, 300),
    "one word": (150, 8, 1),
    "wide": (60, 200, 90),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("level", usable_levels())
def test_every_cpu_level(
    level: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, level)
    assert cpu.library().level == level
    p = problem(*shape, dtype=dtype)
    (total, nats, *gradients), (right_total, right_nats, *right) = run(p, "cpu"), run(widened(p), "reference")
    assert total.dtype == nats.dtype == torch.float32
    torch.testing.assert_close(total.double(), right_total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nats.double(), right_nats, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, right, strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(700, 40, 600), (3, 24, 300), (150, 7, 2)])
def test_same_bits_at_any_number_of_threads(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    p = problem(*shape, dtype=dtype)
    torch.set_num_threads(1)
    one = run(p, "cpu")
    for n in (1, 2, 3, 7):
        torch.set_num_threads(n)
        assert all(torch.equal(a, b) for a, b in zip(one, run(p, "cpu"), strict=True))


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_an_impossible_target_costs_what_it_costs(backend: str) -> None:
    hidden = torch.tensor([[1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]), backend=backend)
    assert total.item() == 2000
    assert torch.autograd.grad(total, hidden)[0].item() == 2


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_probabilities_far_below_the_largest_are_no_numbers_apart(backend: str) -> None:
    p = problem(40, 8, 600, scale=200)
    for got, wanted in zip(run(p, backend), run(widened(p), "reference"), strict=True):
        assert (got.double() - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("backend", FAST)
def test_what_is_not_a_number_stays_in_its_token(backend: str, value: float) -> None:
    p = problem(150, 12, 300)
    _, clean, clean_gradient, _ = run(p, backend)
    with torch.no_grad():
        p.hidden[17, 5] = value
    total, nats, gradient, grad_weight = run(p, backend)
    others = torch.arange(150) != 17
    assert not any(t.isfinite().any() for t in (total, nats[17], gradient[17], grad_weight))
    assert torch.equal(nats[others], clean[others])
    assert torch.equal(gradient[others], clean_gradient[others])


@pytest.mark.parametrize("backend", FAST)
def test_a_word_that_is_not_a_number_spoils_every_loss(backend: str) -> None:
    p = problem(20, 12, 300)
    with torch.no_grad():
        p.weight[299, 3] = math.nan
    assert not any(t.isfinite().any() for t in run(p, backend)[:3])


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_without_gradients_none_are_formed(backend: str) -> None:
    p = problem(40, 8, 30)
    with_gradients = linear_cross_entropy(*p, backend=backend)
    with torch.no_grad():
        total, nats = linear_cross_entropy(*p, backend=backend)
    frozen = linear_cross_entropy(p.hidden.detach(), p.weight.detach(), p.targets, backend=backend)
    for one in ((total, nats), frozen):
        assert not one[0].requires_grad
        assert torch.equal(one[0], with_gradients[0].detach())
        assert torch.equal(one[1], with_gradients[1])
    if backend == "cpu":
        outputs = torch.ops.moe_search.loss_head_cpu(*(tensor.detach() for tensor in p), False)
        assert [tensor.numel() for tensor in outputs] == [1, 40, 0, 0]


@pytest.mark.parametrize("backend", FAST)
def test_low_precision_hidden_and_weight_in_float32(backend: str) -> None:
    p = problem(200, 16, 300)
    mixed = Problem(p.hidden.detach().bfloat16().requires_grad_(), p.weight, p.targets)
    *_, grad_hidden, grad_weight = run(mixed, backend)
    *_, right_hidden, right_weight = run(p, "reference")
    assert (grad_hidden.dtype, grad_weight.dtype) == (torch.bfloat16, torch.float32)
    assert (grad_hidden - right_hidden).norm() < 0.01 * right_hidden.norm()
    assert (grad_weight - right_weight).norm() < 0.01 * right_weight.norm()


def test_one_matrix_in_and_out() -> None:
    p = problem(50, 8, 40)
    tokens = torch.arange(50) % 40
    gradients = []
    for backend in ("reference", "cpu"):
        total, _ = linear_cross_entropy(p.weight[tokens], p.weight, p.targets, backend=backend)
        gradients.append(torch.autograd.grad(total, p.weight)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_cannot_be_differentiated_twice_and_says_so(backend: str) -> None:
    p = problem(20, 8, 10)
    total, _ = linear_cross_entropy(*p, backend=backend)
    (gradient,) = torch.autograd.grad(total, p.hidden, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()  # type: ignore[no-untyped-call]


def test_compiles_in_one_graph() -> None:
    p = problem(60, 16, 40)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    (total, nats), (right_total, right_nats) = compiled(*p), linear_cross_entropy(*p)
    assert torch.equal(total, right_total)
    assert torch.equal(nats, right_nats)
    for got, wanted in zip(
        torch.autograd.grad(total / 60, p[:2]), torch.autograd.grad(right_total / 60, p[:2]), strict=True
    ):
        assert torch.equal(got, wanted)


def test_operators_keep_their_contract() -> None:
    torch.library.opcheck(torch.ops.moe_search.loss_head_cpu, (*problem(30, 8, 20), True))


def test_compiled_code_does_not_look_at_targets_and_an_unknown_one_costs_nan() -> None:
    p = problem(20, 8, 10)
    p.targets[3], p.targets[4] = 10, -1
    _, nats = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")(*p)
    assert nats.isnan().nonzero().flatten().tolist() == [3, 4]


def test_counter_tells_which_backend_ran() -> None:
    before = backend_counts()
    for backend in ("reference", "chunked", "chunked", "cpu"):
        linear_cross_entropy(*problem(4, 4, 2), backend=backend)
    linear_cross_entropy(*problem(4, 4, 2, dtype=torch.float64))
    linear_cross_entropy(*problem(4, 4, 2))
    ran = {name: count - before[name] for name, count in backend_counts().items()}
    assert ran == {"reference": 1, "chunked": 3, "cpu": 2}


def test_without_a_compiler_the_chunked_backend_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.loss_head.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("chunked", "there is no C++ compiler")
    with pytest.raises(ValueError, match=r"^backend is 'cpu', which is not available: there is no C"):
        linear_cross_entropy(*problem(4, 4, 2), backend="cpu")


def test_other_devices_and_types_take_the_chunked_backend() -> None:
    assert default_backend("cuda", torch.bfloat16)[0] == "chunked"
    assert default_backend("cpu", torch.float64)[0] == "chunked"


@given(st.lists(st.integers(0, 4), max_size=50))
@settings(max_examples=20, deadline=None)
def test_sums_by_group(groups: list[int]) -> None:
    nats = torch.randn(len(groups), generator=torch.Generator().manual_seed(0))
    sums = sums_by_group(nats, torch.tensor(groups, dtype=torch.int64), 5)
    assert sums.counts.tolist() == [groups.count(group) for group in range(5)]
    for group in range(5):
        wanted = sum(float(n) for n, g in zip(nats, groups, strict=True) if g == group)
        assert sums.nats[group].item() == pytest.approx(wanted)
