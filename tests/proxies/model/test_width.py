"""Start and rates of every tensor follow the table of ``proxies.model.width``, and so transfer over width."""

import math

import pytest
import torch
from torch import Tensor

from moe_search.proxies.model import DecoderLM, build_model, parameter_groups
from moe_search.proxies.model.decoder import EMBEDDING_STD, HEAD_STD
from moe_search.proxies.model.width import REFERENCE_WIDTH
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN, Routing
from moe_search.spaces.mixers import GroupedQueryAttention

VOCABULARY, LENGTH = 64, 32


def architecture(d_model: int, *, d_expert: int | None = None, tied: bool = False) -> Architecture:
    """Return two layers, one dense and one of experts with shared ones, whose widths are proportional to d_model."""
    attention = GroupedQueryAttention(n_heads=d_model // 16, n_kv_heads=d_model // 16, head_dim=16, qk_norm=True)
    routed = MoEFFN(n_experts=8, top_k=2, d_expert=d_expert or d_model // 2, n_shared_experts=1)
    return Architecture(
        d_model=d_model,
        vocab_size=VOCABULARY,
        seq_len=LENGTH,
        layers=(Layer(mixer=attention, ffn=DenseFFN(d_ff=2 * d_model)), Layer(mixer=attention, ffn=routed)),
        tied_embeddings=tied,
        routing=Routing(),
    )


def groups_by_name(model: DecoderLM, **options: float) -> dict[str, tuple[float, float]]:
    """Return (rate, decay) of every parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(model, **{"learning_rate": 1.0, "weight_decay": 0.1, **options}):
        parameters, rate, decay = group["params"], group["lr"], group["weight_decay"]
        assert isinstance(parameters, list)
        assert isinstance(rate, float)
        assert isinstance(decay, float)
        for parameter in parameters:
            assert names[id(parameter)] not in found, "in two groups"
            found[names[id(parameter)]] = (rate, decay)
    return found


def test_first_values_have_the_tables_scale() -> None:
    values = build_model(architecture(128, d_expert=32), seed=0).state_dict()
    residual = 1 / math.sqrt(2 * 2)
    wanted = {
        "embedding.weight": EMBEDDING_STD,
        "head.weight": HEAD_STD,
        "layers.0.mixer.qkv.weight": 128**-0.5,
        "layers.0.mixer.output.weight": residual * 128**-0.5,
        "layers.0.ffn.up.weight": 128**-0.5,
        "layers.0.ffn.down.weight": residual * 256**-0.5,
        "layers.1.ffn.experts.w_up": 128**-0.5,
        "layers.1.ffn.experts.w_down": residual * 32**-0.5,
        "layers.1.ffn.shared.down.weight": residual * 32**-0.5,
        "layers.1.ffn.router.weight": 128**-0.5,
    }
    for name, std in wanted.items():
        assert values[name].std().item() == pytest.approx(std, rel=0.07), name
        assert values[name].abs().max().item() <= 3.001 * std, name
    assert (values["layers.1.ffn_norm.weight"] == 1).all()


def test_rates_and_decays_are_the_tables() -> None:
    model = build_model(architecture(128, d_expert=32), seed=0)
    found = groups_by_name(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    half, double = (0.5, pytest.approx(0.2)), (2.0, pytest.approx(0.05))  # fan-in 128 and 32 at base width 64
    wanted = {
        "embedding.weight": (1.0, 0.0),
        "final_norm.weight": (1.0, 0.0),
        "layers.0.mixer.query_norm.weight": (1.0, 0.0),
        "head.weight": (1.0, 0.1),
        "layers.0.mixer.qkv.weight": half,
        "layers.0.ffn.down.weight": (0.25, pytest.approx(0.4)),
        "layers.1.ffn.router.weight": half,
        "layers.1.ffn.experts.w_up": half,
        "layers.1.ffn.experts.w_down": double,
        "layers.1.ffn.shared.down.weight": double,
    }
    assert {name: found[name] for name in wanted} == wanted


def test_decay_a_step_is_the_same_for_every_matrix() -> None:
    found = groups_by_name(build_model(architecture(96), seed=0), learning_rate=0.02)
    assert {round(rate * decay, 9) for rate, decay in found.values() if decay} == {0.02 * 0.1}


def test_reference_width_is_where_matrices_have_the_recipes_rate() -> None:
    found = groups_by_name(build_model(architecture(32), seed=0), reference_width=32)
    assert found["layers.0.mixer.qkv.weight"] == (1.0, 0.1)
    assert REFERENCE_WIDTH == 64


def test_tied_head_learns_as_the_embedding() -> None:
    found = groups_by_name(build_model(architecture(32, tied=True), seed=0))
    assert found["embedding.weight"] == (1.0, 0.0)
    assert "head.weight" not in found


def test_tied_matrix_has_the_heads_scale_as_head_and_the_embeddings_as_input() -> None:
    tied, untied = (build_model(architecture(64, tied=tied), seed=0) for tied in (True, False))
    tokens = torch.arange(VOCABULARY)[None]
    assert tied.embedding.weight.std().item() == pytest.approx(HEAD_STD, rel=0.05)
    torch.testing.assert_close(tied.embedding(tokens), untied.embedding(tokens))


def test_frozen_parameters_are_in_no_group() -> None:
    routed = architecture(32).replace(routing=Routing(router="random"))
    assert "layers.1.ffn.router.weight" not in groups_by_name(build_model(routed, seed=0))


def trained_activations(d_model: int, steps: int = 4) -> dict[str, float]:
    """Return the root mean square of what each part writes, as changed by a few steps at one and the same rate."""
    model = build_model(architecture(d_model), seed=0)
    optimizer = torch.optim.Adam(parameter_groups(model, learning_rate=0.01, weight_decay=0.0))
    tokens = torch.randint(0, VOCABULARY, (8, LENGTH + 1), generator=torch.Generator().manual_seed(0))

    def activations() -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        hooks = [
            module.register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: (out[0] if isinstance(out, tuple) else out).detach()})
            )
            for name, module in model.named_modules()
            if name.endswith((".mixer", ".ffn"))
        ]
        seen["logits"] = model.logits(model(tokens[:, :-1]).hidden).detach()
        for hook in hooks:
            hook.remove()
        return seen

    before = activations()
    for _ in range(steps):
        model.loss(tokens).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return {name: (value - before[name]).square().mean().sqrt().item() for name, value in activations().items()}


def test_coordinate_check() -> None:
    """What a few steps change in every activation neither grows nor vanishes with width (Tensor Programs V, fig. 5)."""
    narrow, wide = trained_activations(32), trained_activations(256)
    for name, change in narrow.items():
        assert change > 1e-3, name
        assert 1 / 2.5 < wide[name] / change < 2.5, (name, change, wide[name])
