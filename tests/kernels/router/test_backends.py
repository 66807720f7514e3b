"""The compiled router against the reference in float64: decisions, sums, every gradient, ties, determinism."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from moe_search.kernels.native.level import VARIABLE, usable_levels
from moe_search.kernels.router import SCORES, Routed, backend_counts, cpu, default_backend, route


class Problem(NamedTuple):
    """Arguments of ``route``."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    top_k: int
    score: str
    normalise: bool

    def routed(self, backend: str = "auto") -> Routed:
        return route(
            self.x,
            self.weight,
            top_k=self.top_k,
            score=self.score,
            normalise_gates=self.normalise,
            selection_bias=self.bias,
            backend=backend,
            finite=True,  # values that are not are some tests' matter
        )


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def problem(
    tokens: int,
    d_model: int,
    n_experts: int,
    top_k: int,
    *,
    score: str = "softmax",
    normalise: bool = True,
    biased: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype)

    return Problem(
        x=normal(tokens, d_model).requires_grad_(),
        weight=normal(n_experts, d_model, scale=1.5 * d_model**-0.5).requires_grad_(),
        bias=normal(n_experts, scale=0.1) if biased else None,
        top_k=top_k,
        score=score,
        normalise=normalise,
    )


def widened(p: Problem) -> Problem:
    x, weight = (t.detach().double().requires_grad_() for t in (p.x, p.weight))
    return p._replace(x=x, weight=weight, bias=None if p.bias is None else p.bias.double())


def loss(routed: Routed) -> Tensor:
    """Return a scalar through which every differentiable output sends a gradient."""
    g = torch.Generator().manual_seed(1)
    gates, mean = routed.gates, routed.mean_probability
    total: Tensor = (gates * torch.randn(gates.shape, generator=g, dtype=torch.float64).to(gates.dtype)).sum()
    total = total + 10 * mean @ torch.randn(mean.shape, generator=g, dtype=torch.float64).to(mean.dtype)
    square = routed.mean_square_log_partition
    return total if square is None else total + 3 * square


def run(p: Problem, backend: str) -> tuple[Routed, tuple[Tensor, ...]]:
    """Return the decisions, and the gradients of ``loss``."""
    routed = p.routed(backend)
    return routed, torch.autograd.grad(loss(routed), (p.x, p.weight))


def assert_near(p: Problem, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Compare the compiled router with the reference in float64, whose scores must be told apart."""
    (got, gradients), (wanted, right) = run(p, "cpu"), run(widened(p), "reference")
    assert torch.equal(got.expert_index, wanted.expert_index)
    assert torch.equal(got.counts, wanted.counts)
    for name in ("gates", "gate_mass", "mean_probability"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(wanted, name), rtol=rtol, atol=atol)
    if p.score == "softmax":
        assert got.mean_square_log_partition is not None
        assert wanted.mean_square_log_partition is not None
        torch.testing.assert_close(
            got.mean_square_log_partition.double(), wanted.mean_square_log_partition, rtol=rtol, atol=atol
        )
    else:
        assert got.mean_square_log_partition is None
    for one, other in zip(gradients, right, strict=True):
        assert (one.double() - other).norm() <= 1e-5 * (other.norm() + 1)


def test_reference_says_what_the_equations_say() -> None:
    p = problem(50, 8, 6, 3, biased=True, normalise=False, dtype=torch.float64)
    routed = p.routed()
    logits = p.x @ p.weight.T
    scores = logits.softmax(-1)
    assert p.bias is not None
    for t in range(50):
        best = (scores[t] + p.bias).argsort(descending=True)[:3]
        assert routed.expert_index[t].tolist() == best.tolist()
        torch.testing.assert_close(routed.gates[t], scores[t, best])
    assert routed.mean_square_log_partition is not None
    torch.testing.assert_close(routed.mean_probability, scores.mean(0))
    torch.testing.assert_close(routed.mean_square_log_partition, logits.exp().sum(-1).log().square().mean())
    assert routed.counts.tolist() == [(routed.expert_index == e).sum().item() for e in range(6)]
    indicator = functional.one_hot(routed.expert_index, 6).double()
    torch.testing.assert_close(routed.gate_mass, (indicator * routed.gates[..., None]).sum((0, 1)).detach())


def test_normalised_softmax_is_the_softmax_of_the_selected_logits() -> None:
    for backend in ("reference", "cpu"):
        p = problem(50, 8, 6, 3)
        routed = p.routed(backend)
        wanted = (p.x @ p.weight.T).gather(-1, routed.expert_index).softmax(-1)
        torch.testing.assert_close(routed.gates, wanted)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("normalise", [True, False])
def test_gradcheck(score: str, normalise: bool) -> None:
    p = problem(7, 3, 5, 2, score=score, normalise=normalise, biased=True, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: loss(p._replace(x=x, weight=w).routed()), (p.x, p.weight))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Draw tokens, d_model, n_experts, top_k."""
    n_experts = draw(st.integers(1, 20))
    return draw(st.integers(1, 150)), draw(st.integers(1, 20)), n_experts, draw(st.integers(1, n_experts))


@given(shapes(), st.sampled_from(SCORES), st.booleans(), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=150, deadline=None)
def test_compiled_is_near_float64(
    shape: tuple[int, int, int, int], score: str, normalise: bool, biased: bool, seed: int
) -> None:
    p = problem(*shape, score=score, normalise=normalise, biased=biased, seed=seed)
    wide = widened(p)
    logits = wide.x @ wide.weight.T
    keys = (logits.softmax(-1) if score == "softmax" else logits.sigmoid()) + (0 if wide.bias is None else wide.bias)
    apart = keys.sort().values.diff().min() if shape[2] > 1 else torch.tensor(1.0)
    if apart > 1e-6:  # else float32 may select another expert, and rightly so
        assert_near(p)


SHAPES = {
    "many experts": (300, 40, 256, 16),
    "most experts": (140, 24, 512, 6),
    "long lists": (130, 24, 40, 33),
    "all experts": (129, 16, 7, 7),
    "one expert": (50, 8, 1, 1),
    "one token": (1, 8, 16, 4),
    "one of many": (200, 33, 19, 1),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("level", usable_levels())
def test_every_cpu_level(
    level: str, shape: tuple[int, int, int, int], score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, level)
    assert cpu.library().level == level
    assert_near(problem(*shape, score=score, biased=True, normalise=shape[3] > 1))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(700, 40, 24, 4), (3, 24, 64, 16), (260, 7, 2, 1)])
def test_same_bits_at_any_number_of_threads(shape: tuple[int, int, int, int], score: str) -> None:
    p = problem(*shape, score=score)
    torch.set_num_threads(1)
    one = [t for part in run(p, "cpu") for t in part if t is not None]
    for n in (1, 2, 3, 7):
        torch.set_num_threads(n)
        again = [t for part in run(p, "cpu") for t in part if t is not None]
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("top_k", [1, 2, 3, 8, 16, 17, 24])
def test_equal_scores_go_to_the_lower_index(score: str, top_k: int) -> None:
    routed = route(torch.zeros(20, 4), torch.ones(24, 4), top_k=top_k, score=score, backend="cpu")
    assert torch.equal(routed.expert_index, torch.arange(top_k).expand(20, top_k))


@pytest.mark.parametrize("level", usable_levels())
@pytest.mark.parametrize("top_k", [1, 2, 4, 5, 8, 9, 16, 19, 40])
def test_selects_as_a_stable_sort_does(level: str, top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, level)
    g = torch.Generator().manual_seed(top_k)
    x = torch.randint(0, 3, (300, 40), generator=g).float()  # a logit an expert, out of three: most are equal
    routed = route(x, torch.eye(40), top_k=top_k, score="sigmoid", backend="cpu")
    assert torch.equal(routed.expert_index, x.sort(dim=-1, descending=True, stable=True).indices[:, :top_k])


def test_a_bias_of_minus_infinity_selects_nobody_unless_there_is_nobody_else() -> None:
    bias = torch.tensor([0.0, -math.inf, 0.0, -math.inf])
    x, weight = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)
    for backend in ("reference", "cpu"):
        two = route(x, weight, top_k=2, selection_bias=bias, backend=backend).expert_index
        assert torch.equal(two.sort().values, torch.tensor([0, 2]).expand(30, 2))
        three = route(x, weight, top_k=3, selection_bias=bias, backend=backend).expert_index
        assert all(len(set(row)) == 3 for row in three.tolist())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("score", SCORES)
def test_what_is_not_a_number_stays_in_its_token(value: float, score: str) -> None:
    p = problem(150, 12, 10, 3, score=score)
    clean, (clean_gradient, _) = run(p, "cpu")
    with torch.no_grad():
        p.x[17, 5] = value
    routed, (gradient, _) = run(p, "cpu")
    others = torch.arange(150) != 17
    for got, wanted in ((routed.expert_index, clean.expert_index), (routed.gates, clean.gates)):
        assert torch.equal(got[others], wanted[others])
    torch.testing.assert_close(gradient[others], clean_gradient[others])
    right = p.routed("reference")
    assert torch.equal(routed.gates[17].isnan(), right.gates[17].isnan())
    assert len(set(routed.expert_index[17].tolist())) == 3
    if math.isnan(value):
        assert gradient[17].isnan().all()
        assert routed.gates[17].isnan().all()
        assert routed.mean_probability.isnan().all()


def test_a_score_that_is_not_a_number_is_the_largest() -> None:
    weight = torch.eye(4)
    weight[2, 0] = math.nan
    for backend in ("reference", "cpu"):
        routed = route(torch.ones(5, 4), weight, top_k=1, score="sigmoid", backend=backend, finite=True)
        assert (routed.expert_index == 2).all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_tokens(backend: str) -> None:
    routed, (grad_x, grad_weight) = run(problem(0, 8, 4, 2), backend)
    assert routed.expert_index.shape == routed.gates.shape == (0, 2)
    assert routed.counts.tolist() == [0] * 4
    assert routed.gate_mass.tolist() == [0.0] * 4
    assert grad_x.shape == (0, 8)
    assert not grad_weight.any()


def test_a_gradient_that_does_not_arrive_is_none() -> None:
    p = problem(140, 12, 10, 3, normalise=False)
    for name in ("gates", "mean_probability", "mean_square_log_partition"):
        single = [
            torch.autograd.grad(getattr(q.routed(backend), name).square().sum(), (q.x, q.weight))
            for q, backend in ((p, "cpu"), (widened(p), "reference"))
        ]
        for got, wanted in zip(*single, strict=True):
            assert (got.double() - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_without_gradients_the_same_is_decided_and_no_scores_are_kept(backend: str) -> None:
    p = problem(140, 12, 10, 3)
    learned = p.routed(backend)
    with torch.no_grad():
        measured = p.routed(backend)
    for got, wanted in zip(measured, learned, strict=True):
        assert got is not None
        assert wanted is not None
        assert torch.equal(got, wanted)
        assert not got.requires_grad
    if backend == "cpu":
        x, weight = p.x.detach(), p.weight.detach()
        *_, scores, _ = torch.ops.moe_search.router_cpu(x, weight, None, 3, False, True, False)
        assert scores.numel() == 0


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_low_precision_is_routed_in_float32(backend: str) -> None:
    p = problem(90, 16, 8, 2, dtype=torch.bfloat16)
    wide = p._replace(x=p.x.detach().float().requires_grad_(), weight=p.weight.detach().float().requires_grad_())
    (got, gradients), (wanted, right) = run(p, backend), run(wide, backend)
    assert got.gates.dtype == torch.float32
    assert torch.equal(got.gates, wanted.gates)
    for one, other in zip(gradients, right, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(wide.routed(backend).gates, wanted.gates)


def test_cannot_be_differentiated_twice_and_says_so() -> None:
    p = problem(20, 8, 4, 2)
    (gradient,) = torch.autograd.grad(loss(p.routed("cpu")), p.x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()  # type: ignore[no-untyped-call]


def test_compiles_in_one_graph() -> None:
    p = problem(60, 16, 8, 2, biased=True)

    def decide(x: Tensor, weight: Tensor) -> Routed:
        return p._replace(x=x, weight=weight).routed()

    compiled = torch.compile(decide, fullgraph=True, backend="aot_eager")
    got, wanted = compiled(p.x, p.weight), decide(p.x, p.weight)
    for one, other in zip(got, wanted, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    for one, other in zip(
        torch.autograd.grad(loss(got), (p.x, p.weight)), torch.autograd.grad(loss(wanted), (p.x, p.weight)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_several_layers_compile_in_one_graph(backend: str) -> None:
    p = problem(30, 8, 8, 2)

    def decide(x: Tensor) -> Tensor:
        first = p._replace(x=x).routed(backend).gates
        return p._replace(x=x * first[:, :1]).routed(backend).gates

    compiled = torch.compile(decide, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(p.x), decide(p.x))


def test_operators_keep_their_contract() -> None:
    p = problem(30, 8, 6, 2, biased=True)
    torch.library.opcheck(torch.ops.moe_search.router_cpu, (p.x, p.weight, p.bias, 2, False, True, True))


def test_counter_tells_which_backend_ran() -> None:
    before = backend_counts()
    for backend in ("reference", "cpu", "cpu", "auto"):
        problem(4, 4, 2, 1).routed(backend)
    problem(4, 4, 2, 1, dtype=torch.float64).routed()
    ran = {name: count - before[name] for name, count in backend_counts().items()}
    assert ran == {"reference": 2, "cpu": 3}


def test_without_a_compiler_the_reference_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = cpu.library()._replace(functions=None, reason="there is no C++ compiler")
    monkeypatch.setattr("moe_search.kernels.router.library", lambda: missing)
    assert default_backend("cpu", torch.float32) == ("reference", "there is no C++ compiler")
    with pytest.raises(ValueError, match=r"^backend is 'cpu', which is not available: there is no C"):
        problem(4, 4, 2, 1).routed("cpu")


def test_other_devices_and_types_take_the_reference() -> None:
    assert default_backend("cuda", torch.bfloat16)[0] == "reference"
    assert default_backend("cpu", torch.float64)[0] == "reference"
