"""The model: its size is the formula's, it sees no future, it is a function of its seed, and it learns."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from moe_search.kernels import loss_head, router
from moe_search.kernels.moe_ffn import backend_counts
from moe_search.proxies.model import build_model, parameter_groups
from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN, Routing
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixers import GroupedQueryAttention
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import resolve
from moe_search.spaces.rules import ShapeRules
from moe_search.spaces.schedule import NAMED_SCHEDULES

VOCABULARY = 64


def architecture(
    *,
    router: str = "softmax_topk",
    balancing: str = "aux_loss",
    shared: int = 0,
    dense_layers: int = 1,
    tied: bool = False,
    gated: bool = True,
    n_kv_heads: int = 1,
    qk_norm: bool = True,
) -> Architecture:
    attention = GroupedQueryAttention(n_heads=2, n_kv_heads=n_kv_heads, head_dim=8, qk_norm=qk_norm)
    routed = MoEFFN(n_experts=4, top_k=2, d_expert=8, n_shared_experts=shared, gated=gated)
    ffns = (DenseFFN(d_ff=24, gated=gated),) * dense_layers + (routed,) * (3 - dense_layers)
    return Architecture(
        d_model=16,
        vocab_size=VOCABULARY,
        seq_len=32,
        layers=tuple(Layer(mixer=attention, ffn=ffn) for ffn in ffns),
        tied_embeddings=tied,
        routing=Routing(router=router, balancing=balancing),
    )


def random_tokens(batch: int = 3, length: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def n_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


VARIANTS = [
    architecture(),
    architecture(router="sigmoid", balancing="loss_free", shared=2),
    architecture(router="topk_softmax", balancing="none", dense_layers=0, gated=False),
    architecture(router="random", n_kv_heads=2, qk_norm=False),
    architecture(dense_layers=3, tied=True),
]


@given(
    design=st.fixed_dictionaries(
        {
            "ffn": st.sampled_from(["moe", "moe", "dense"]),
            "granularity": st.sampled_from([1.0, 2.0, 4.0, 6.0]),
            "activation_ratio": st.sampled_from([0.125, 0.25, 0.5, 1.0]),
            "n_shared_experts": st.integers(0, 2),
            "first_dense_layers": st.integers(0, 1),
            "schedule": st.sampled_from(sorted(NAMED_SCHEDULES)),
            "routing": st.builds(Routing, router=st.sampled_from(["softmax_topk", "sigmoid", "random"])),
        }
    ),
    n_active=st.integers(60_000, 400_000),
    tied=st.booleans(),
    query_groups=st.sampled_from([1, 2]),
    qk_norm=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_size_is_the_formulas(
    design: dict[str, object], n_active: int, tied: bool, query_groups: int, qk_norm: bool
) -> None:
    rules = ShapeRules(vocab_size=128, seq_len=16, tied_embeddings=tied, query_groups=query_groups, qk_norm=qk_norm)
    wanted = Design.model_validate({**design, "mixture": Mixture.uniform(("a",))})
    try:
        resolved = resolve(wanted, Scale(n_active=n_active, tokens=1), rules)
    except InvalidInputError:
        assume(False)
    model = build_model(resolved.architecture, seed=0)
    sizes = count(resolved.architecture)
    assert n_parameters(model) == sizes.n_total
    for block, layer in zip(model.layers, sizes.layers, strict=True):
        assert n_parameters(block) == layer.parameters
    assert n_parameters(model.embedding) == sizes.embedding
    assert (n_parameters(model.head) if model.head else 0) == sizes.head


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_changes_nothing_before_it(variant: Architecture) -> None:
    model = build_model(variant, seed=1).eval()
    tokens = random_tokens()
    before = model.logits(model(tokens).hidden)
    for place in (0, 5, 31):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        after = model.logits(model(changed).hidden)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(after[:, place:], before[:, place:])


def test_sequences_do_not_see_each_other() -> None:
    model = build_model(architecture(), seed=1).eval()
    tokens = random_tokens()
    together, alone = model(tokens).hidden[1], model(tokens[1:2]).hidden[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_seed_gives_the_same_bits_and_leaves_the_global_generator_alone(variant: Architecture) -> None:
    torch.manual_seed(0)
    untouched = torch.rand(3)
    torch.manual_seed(0)
    first = build_model(variant, seed=3)
    assert torch.equal(torch.rand(3), untouched)
    second = build_model(variant, seed=3)
    other = build_model(variant, seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_first_values_depend_on_the_name_alone() -> None:
    deep, shallow = architecture(), architecture().replace(layers=architecture().layers[:2])
    kept = "layers.1.ffn.experts.w_up"
    assert torch.equal(build_model(deep, seed=0).state_dict()[kept], build_model(shallow, seed=0).state_dict()[kept])


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_is_the_cross_entropy_of_the_next_token(variant: Architecture) -> None:
    model = build_model(variant, seed=2)
    tokens = random_tokens(length=33)
    output = model.loss(tokens)
    logits = model.logits(model(tokens[:, :-1]).hidden)
    wanted = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(output.token_nats.flatten(), wanted)
    torch.testing.assert_close(output.loss, wanted.mean())


@pytest.mark.parametrize(("tied", "margin"), [(False, 0.5), (True, 1.2)])  # a tied model first guesses its own input
def test_loss_starts_near_that_of_the_uniform_distribution(tied: bool, margin: float) -> None:
    wide = architecture(tied=tied).replace(d_model=64)
    loss = build_model(wide, seed=0).loss(random_tokens(length=33)).loss.item()
    assert loss == pytest.approx(math.log(VOCABULARY), abs=margin)


@pytest.mark.parametrize("variant", VARIANTS)
def test_routing_statistics_cover_every_assignment(variant: Architecture) -> None:
    output = build_model(variant, seed=0)(random_tokens())
    assert len(output.routing) == len(variant.moe_layers)
    for statistics, ffn in zip(output.routing, variant.moe_layers, strict=True):
        assert len(statistics.counts) == ffn.n_experts
        assert int(statistics.counts.sum()) == 3 * 32 * ffn.top_k


def test_dense_model_has_no_auxiliary_loss() -> None:
    assert build_model(architecture(dense_layers=3), seed=0)(random_tokens()).auxiliary_loss.item() == 0


def test_auxiliary_loss_is_the_sum_of_balance_and_z_losses() -> None:
    both = architecture()
    without_z = both.replace(routing=both.routing.replace(z_loss_coefficient=0.0))
    without_balance = both.replace(routing=both.routing.replace(balance_coefficient=0.0))
    losses = [
        build_model(variant, seed=0)(random_tokens()).auxiliary_loss.item()
        for variant in (both, without_z, without_balance)
    ]
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-5)
    assert min(losses) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_a_batch_by_heart(variant: Architecture) -> None:
    model = build_model(variant, seed=0)
    optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=1e-2, weight_decay=0.1))
    tokens = random_tokens(length=33)
    for _ in range(60):
        output = model.loss(tokens)
        (output.loss + output.auxiliary_loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        model.end_step()
    assert output.loss.item() < 1.5 < 4.15


def test_every_learned_parameter_gets_a_gradient() -> None:
    model = build_model(architecture(shared=1), seed=0)
    output = model.loss(random_tokens(length=33))
    (output.loss + output.auxiliary_loss).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_backends_agree_on_loss_and_gradients() -> None:
    tokens = random_tokens(length=33)
    names = ("reference", "grouped", "cpu")
    models = [build_model(architecture(), seed=0, backend=name) for name in names]
    before = backend_counts()
    for model in models:
        model.loss(tokens).loss.backward()  # type: ignore[no-untyped-call]
    after = backend_counts()
    assert all(after[name] - before[name] == 2 for name in names)
    for one, *others in zip(*(model.parameters() for model in models), strict=True):
        for other in others:
            assert one.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_route_and_measure(variant: Architecture) -> None:
    model = build_model(variant, seed=0)
    before = router.backend_counts(), loss_head.backend_counts()
    model.loss(random_tokens(length=33))
    routed = len(variant.moe_layers) if variant.routing.router != "random" else 0
    for kernel, counts, passes in zip((router, loss_head), before, (routed, 1), strict=True):
        name, _ = kernel.default_backend("cpu", torch.float32)
        assert kernel.backend_counts() == {**counts, name: counts[name] + passes}


def test_micro_batches_with_global_scope_share_their_counts() -> None:
    model = build_model(architecture(dense_layers=2), seed=0)
    first, second = random_tokens(seed=1), random_tokens(seed=2)
    alone = model(second).auxiliary_loss.item()
    model.end_step()
    model(first)
    after_first = model(second).auxiliary_loss.item()
    model.end_step()
    assert after_first != alone
    assert model(second).auxiliary_loss.item() == alone


def test_runs_under_autocast() -> None:
    model = build_model(architecture(), seed=0)
    tokens = random_tokens(length=33)
    exact = model.loss(tokens).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.loss(tokens)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.item(), rel=0.02)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_longer_sequences_than_planned_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^tokens has 33 in a sequence; the model was built for 32"):
        build_model(architecture(), seed=0)(random_tokens(length=33))
