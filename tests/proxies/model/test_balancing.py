"""The auxiliary loss and its scopes; the loss-free bias."""

import pytest
import torch
from torch import Tensor

from moe_search.proxies.model.balancing import BALANCING, Balancing
from moe_search.proxies.model.routers import ROUTERS
from moe_search.proxies.model.routing import Assignment, RoutingStatistics, TokenContext
from moe_search.spaces.architecture import MoEFFN, Routing

EXPERTS = 4


def balancing(name: str, scope: str = "global", coefficient: float = 1.0) -> Balancing:
    routing = Routing.model_validate({"balancing": name, "balance_scope": scope, "balance_coefficient": coefficient})
    return BALANCING.get(name)(EXPERTS, routing)


def decided(experts: Tensor, distribution: Tensor) -> tuple[Tensor, Assignment]:
    """Return counts and the assignment of tokens that choose one expert each."""
    gates = torch.ones(len(experts), 1)
    assignment = Assignment(experts[:, None], gates, distribution, None)
    return RoutingStatistics.of(assignment, EXPERTS).counts, assignment


def drawn(n: int, seed: int, lean: float = 1.0) -> tuple[Tensor, Assignment]:
    """Return what a random softmax router decides that leans towards the first experts."""
    logits = torch.randn(n, EXPERTS, generator=torch.Generator().manual_seed(seed)) - lean * torch.arange(EXPERTS)
    return decided(logits.argmax(-1), logits.softmax(-1))


def test_registry_is_the_folder() -> None:
    assert {"aux_loss", "loss_free", "none"} <= set(BALANCING.names())


@pytest.mark.parametrize("scope", ["micro", "global"])
def test_auxiliary_loss_is_one_for_even_load_and_n_experts_for_collapse(scope: str) -> None:
    even = decided(torch.arange(8) % EXPERTS, torch.full((8, EXPERTS), 1 / EXPERTS))
    collapsed = decided(torch.zeros(8, dtype=torch.int64), torch.eye(EXPERTS)[:1].expand(8, -1))
    assert balancing("aux_loss", scope)(*even).item() == pytest.approx(1.0)
    assert balancing("aux_loss", scope)(*collapsed).item() == pytest.approx(EXPERTS)
    assert balancing("aux_loss", scope, coefficient=0.01)(*collapsed).item() == pytest.approx(0.01 * EXPERTS)


def test_scopes_agree_on_one_micro_batch_and_differ_on_the_second() -> None:
    micro, whole = balancing("aux_loss", "micro"), balancing("aux_loss", "global")
    low, high = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.5, 0.5])
    first = decided(torch.arange(8) % 2, low.expand(8, -1))
    second = decided(torch.arange(8) % 2 + 2, high.expand(8, -1))
    assert micro(*first).item() == whole(*first).item() == pytest.approx(2.0)
    # Each micro-batch uses half of the experts; together they use all.
    assert micro(*second).item() == pytest.approx(2.0)
    assert whole(*second).item() == pytest.approx(1.0)


def test_global_scope_forgets_at_the_end_of_a_step() -> None:
    whole = balancing("aux_loss", "global")
    first = whole(*drawn(64, 0))
    whole(*drawn(64, 1, lean=-1.0))
    whole.end_step()
    assert torch.equal(whole(*drawn(64, 0)), first)


def test_evaluation_leaves_no_trace() -> None:
    for name in ("aux_loss", "loss_free"):
        one = balancing(name).eval()
        one(*drawn(64, 0))
        one.train()
        assert int(one.get_buffer("counts_of_step").sum()) == 0


def test_gradient_lowers_the_probability_of_the_busy_expert() -> None:
    logits = torch.zeros(32, EXPERTS, requires_grad=True)
    counts, assignment = decided(torch.zeros(32, dtype=torch.int64), logits.softmax(-1))
    balancing("aux_loss")(counts, assignment).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_router_without_a_distribution_has_no_auxiliary_loss() -> None:
    counts, assignment = drawn(8, 0)
    assert balancing("aux_loss")(counts, assignment._replace(distribution=None)) is None


@pytest.mark.parametrize("name", ["softmax_topk", "topk_softmax", "sigmoid"])
def test_loss_free_bias_moves_the_load_towards_balance(name: str) -> None:
    routing = Routing(router=name, balancing="loss_free", balance_coefficient=0.005)
    router = ROUTERS.get(name)(MoEFFN(n_experts=EXPERTS, top_k=1, d_expert=8), 8, routing)
    bias = BALANCING.get("loss_free")(EXPERTS, routing)
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        router.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        router.weight[0] += 0.3  # expert 0 is liked by most
    context = TokenContext(torch.zeros(512, dtype=torch.int64), torch.zeros(512, dtype=torch.int64))
    imbalance = []
    for _ in range(200):
        for half in x.chunk(2):  # two micro-batches a step
            assignment = router(half, context._replace(token_ids=context.token_ids[:256]), bias.selection_bias)
            assert bias(RoutingStatistics.of(assignment, EXPERTS).counts, assignment) is None
        imbalance.append(RoutingStatistics.of(router(x, context, bias.selection_bias), EXPERTS).load_imbalance)
        bias.end_step()
    assert imbalance[0] > 1.6
    assert imbalance[-1] < 1.2


def test_loss_free_step_is_the_sign_of_the_load_error() -> None:
    bias = balancing("loss_free", coefficient=0.25)
    bias(*decided(torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]), torch.full((8, EXPERTS), 0.25)))
    bias.end_step()
    assert bias.selection_bias is not None
    assert bias.selection_bias.tolist() == [-0.25, 0.0, 0.0, 0.25]
    assert list(bias.state_dict()) == ["selection_bias"], (
        "the bias is part of a checkpoint, the counts of a step are not"
    )


def test_none_adds_nothing() -> None:
    nothing = balancing("none")
    assert nothing(*drawn(8, 0)) is None
    nothing.end_step()
    assert nothing.selection_bias is None
    assert not nothing.state_dict()
