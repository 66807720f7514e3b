"""Every router: k distinct experts, gates that mean what they say; the control router ignores what tokens mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_search.proxies.model.routers import ROUTERS, Router
from moe_search.proxies.model.routing import Decision, RoutingStatistics, TokenContext
from moe_search.spaces.architecture import MoEFFN, Routing
from moe_search.spaces.errors import InvalidInputError

D_MODEL = 16
LEARNED = ("sigmoid", "softmax_topk", "topk_softmax")


def router(name: str, n_experts: int = 8, top_k: int = 3, *, normalise_gates: bool = True, key: int = 0) -> Router:
    ffn = MoEFFN(n_experts=n_experts, top_k=top_k, d_expert=8)
    made = ROUTERS.get(name)(ffn, D_MODEL, Routing(router=name, normalise_gates=normalise_gates), key=key)
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(n_experts))
    return made


def tokens(n: int, seed: int = 0) -> tuple[Tensor, TokenContext]:
    g = torch.Generator().manual_seed(seed)
    context = TokenContext(torch.randint(0, 4096, (n,), generator=g), torch.arange(n) % 64)
    return torch.randn(n, D_MODEL, generator=g), context


def assign(made: Router, n: int = 64, seed: int = 0, bias: Tensor | None = None) -> Decision:
    result: Decision = made(*tokens(n, seed), bias)
    return result


def test_registry_is_the_folder() -> None:
    assert {"random", "sigmoid", "softmax_topk", "topk_softmax"} <= set(ROUTERS.names())
    with pytest.raises(InvalidInputError, match=r"routing.router.*'topp'.*softmax_topk"):
        ROUTERS.get("topp")


@given(st.sampled_from(ROUTERS.names()), st.integers(1, 12), st.data(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_k_distinct_experts_and_gates_that_sum_to_one(
    name: str, n_experts: int, data: st.DataObject, seed: int
) -> None:
    top_k = data.draw(st.integers(1, n_experts))
    assignment = assign(router(name, n_experts, top_k), seed=seed)
    assert assignment.expert_index.shape == assignment.gates.shape == (64, top_k)
    assert all(len(set(row.tolist())) == top_k for row in assignment.expert_index)
    assert 0 <= int(assignment.expert_index.min()) <= int(assignment.expert_index.max()) < n_experts
    assert (assignment.gates >= 0).all()
    assert assignment.gates.dtype == torch.float32
    if top_k > 1 or name == "random":
        torch.testing.assert_close(assignment.gates.sum(-1), torch.ones(64))
    if assignment.mean_probability is not None:
        torch.testing.assert_close(assignment.mean_probability.sum(), torch.tensor(1.0))


def dense(assignment: Decision, n_experts: int) -> Tensor:
    """Return the gates as (tokens, n_experts), 0 where not selected: the order within a token does not matter."""
    return torch.zeros(len(assignment.gates), n_experts).scatter(1, assignment.expert_index, assignment.gates)


def test_both_orders_select_alike_and_agree_when_normalised() -> None:
    before, after = assign(router("softmax_topk")), assign(router("topk_softmax"))
    torch.testing.assert_close(dense(before, 8), dense(after, 8))


def test_orders_differ_without_normalisation() -> None:
    before = assign(router("softmax_topk", normalise_gates=False))
    after = assign(router("topk_softmax", normalise_gates=False))
    assert torch.equal(dense(before, 8) > 0, dense(after, 8) > 0)
    assert (before.gates.sum(-1) < 1).all()
    torch.testing.assert_close(after.gates.sum(-1), torch.ones(64))


def test_softmax_gates_are_the_largest_probabilities() -> None:
    made = router("softmax_topk", normalise_gates=False)
    x, context = tokens(64)
    wanted = torch.softmax(x @ made.weight.T, -1).topk(3).values
    torch.testing.assert_close(made(x, context).gates.sort(descending=True).values, wanted)


@pytest.mark.parametrize("name", LEARNED)
def test_bias_moves_the_selection_and_no_gate(name: str) -> None:
    made = router(name, normalise_gates=False)
    bias = torch.zeros(8)
    bias[5] = 10
    plain, biased = assign(made), assign(made, bias=bias)
    assert (biased.expert_index == 5).any(-1).all()
    assert not (plain.expert_index == 5).any(-1).all()
    if name != "topk_softmax":  # whose gates depend on which others are selected
        scores = {(t, int(e)): g for t in range(64) for e, g in zip(plain.expert_index[t], plain.gates[t], strict=True)}
        for t in range(64):
            for e, g in zip(biased.expert_index[t], biased.gates[t], strict=True):
                torch.testing.assert_close(g, scores.get((t, int(e)), g))


@pytest.mark.parametrize("name", LEARNED)
def test_router_runs_in_float32_under_autocast(name: str) -> None:
    made = router(name)
    plain = assign(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = assign(made)
    assert torch.equal(plain.gates, cast.gates)
    assert torch.equal(plain.expert_index, cast.expert_index)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("top_k", [1, 3])
def test_gates_teach_the_router(name: str, top_k: int) -> None:
    made = router(name, top_k=top_k)
    assign(made).gates[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert made.weight.grad is not None
    assert made.weight.grad.abs().sum() > 0


def test_random_router_ignores_the_hidden_state() -> None:
    made = router("random")
    x, context = tokens(64)
    assert torch.equal(made(x, context).expert_index, made(torch.randn_like(x), context).expert_index)


def test_random_router_depends_on_token_position_and_key() -> None:
    x, context = tokens(512)
    here = router("random")(x, context).expert_index
    for other in (
        router("random")(x, TokenContext(context.token_ids + 1, context.positions)),
        router("random")(x, TokenContext(context.token_ids, context.positions + 1)),
        router("random", key=1)(x, context),
    ):
        assert 0.3 < (here == other.expert_index).float().mean() * 8 < 3  # agrees as often as chance has it: 1 in 8


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (7, 3), (64, 8)])
def test_random_router_is_balanced(n_experts: int, top_k: int) -> None:
    n = 16384
    statistics = RoutingStatistics.of(assign(router("random", n_experts, top_k), n), n_experts)
    mean = n * top_k / n_experts
    assert ((statistics.counts - mean).abs() < 5 * mean**0.5).all()  # five standard deviations of a Poisson count
    assert statistics.entropy > 0.999


def test_random_router_is_frozen() -> None:
    assert not router("random").weight.requires_grad


def test_statistics_add_up() -> None:
    made = router("softmax_topk")
    parts = [RoutingStatistics.of(assign(made, 32, seed), 8) for seed in range(2)]
    total = parts[0] + parts[1]
    assert int(total.counts.sum()) == 2 * 32 * 3
    torch.testing.assert_close(total.gate_mass.sum(), torch.tensor(64.0, dtype=torch.float64))
    assert 1 <= total.load_imbalance <= 8 / 3
    assert 0 < total.entropy < 1


def test_statistics_of_even_and_collapsed_loads() -> None:
    even = RoutingStatistics(torch.full((4,), 10), torch.full((4,), 5.0, dtype=torch.float64))
    collapsed = RoutingStatistics(torch.tensor([40, 0, 0, 0]), torch.tensor([20.0, 0, 0, 0], dtype=torch.float64))
    assert (even.load_imbalance, even.entropy) == (1.0, 1.0)
    assert (collapsed.load_imbalance, collapsed.entropy) == (4.0, 0.0)
