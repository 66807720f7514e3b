"""Muon: orthogonal steps for hidden matrices, AdamW for everything else, exact resumption."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.model import build_model
from moe_search.proxies.model.decoder import DecoderLM
from moe_search.proxies.training import leg
from moe_search.proxies.training.checkpoint import capture, restore_model, restore_optimizer
from moe_search.proxies.training.muon import Muon, orthogonal
from moe_search.proxies.training.optimizer import build_optimizer
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.run import train_proxy
from moe_search.spaces.resolve import Resolved

RATE = 0.01
BATCH = 64


@pytest.fixture
def shared(resolved: Resolved) -> DecoderLM:
    """A model with a dense FFN, grouped queries, routed experts and a shared one."""
    architecture = resolved.architecture
    moe = architecture.layers[0]
    assert moe.ffn is not None
    layers = (
        moe.replace(ffn={"kind": "dense", "d_ff": 24}, mixer=moe.mixer.replace(n_heads=2, n_kv_heads=1)),
        moe.replace(ffn=moe.ffn.replace(n_shared_experts=1)),
    )
    return build_model(architecture.replace(layers=layers), seed=0)


def recipe_with(**changes: object) -> TrainingRecipe:
    return TrainingRecipe(optimizer="muon", learning_rate=RATE, **changes)  # type: ignore[arg-type]


def step(model: DecoderLM, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, model.architecture.seq_len + 1)
    optimizer.zero_grad()
    output = model.loss(torch.randint(model.architecture.vocab_size, shape, generator=generator))
    (output.loss + output.auxiliary_loss).backward()
    optimizer.step()
    model.end_step()


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(60, 90), tall=st.booleans(), exponent=st.integers(-12, 6))
def test_singular_values_come_close_to_one(rows: int, columns: int, tall: bool, exponent: int) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    matrices = torch.randn(3, rows, columns, generator=generator) * 10.0**exponent
    matrices = matrices.mT if tall else matrices
    found = orthogonal(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.65
    assert float(values.max()) < 1.25
    assert torch.allclose(found, u @ torch.diag_embed((u.mT @ found @ v.mT).diagonal(dim1=1, dim2=2)) @ v, atol=1e-3)


def test_a_matrix_of_zeros_stays_and_does_not_touch_its_neighbours() -> None:
    matrices = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = orthogonal(matrices[:1])
    matrices[1] = 0
    together = orthogonal(matrices)
    assert torch.equal(together[1], torch.zeros(8, 8))
    assert torch.allclose(together[:1], alone, atol=1e-6)


def test_in_bfloat16_the_iteration_is_coarser_and_still_stable() -> None:
    matrices = torch.randn(4, 24, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices.bfloat16()).float())
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3


@pytest.mark.parametrize("experts", [False, True])
def test_only_hidden_matrices_are_muons(shared: DecoderLM, experts: bool) -> None:
    optimizer = build_optimizer(shared, recipe_with(muon_experts=experts), RATE)
    step(shared, optimizer, 0)
    muons = {name for name, parameter in shared.named_parameters() if optimizer.state[parameter].keys() == {"momentum"}}
    expected = {
        "layers.0.mixer.qkv.weight",
        "layers.0.mixer.output.weight",
        "layers.0.ffn.up.weight",
        "layers.0.ffn.down.weight",
        "layers.1.mixer.qkv.weight",
        "layers.1.mixer.output.weight",
        "layers.1.ffn.shared.up.weight",
        "layers.1.ffn.shared.down.weight",
    }
    assert muons == expected | ({"layers.1.ffn.experts.w_up", "layers.1.ffn.experts.w_down"} if experts else set())
    others = {name for name, parameter in shared.named_parameters() if "exp_avg" in optimizer.state[parameter]}
    assert muons | others == {name for name, _ in shared.named_parameters()}
    assert not muons & others


def test_what_is_not_muons_moves_as_with_adamw(shared: DecoderLM) -> None:
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    optimizer = build_optimizer(shared, recipe_with(), RATE)
    step(shared, optimizer, 0)
    other = build_model(shared.architecture, seed=0)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    step(other, build_optimizer(other, recipe_with().replace(optimizer="adamw"), RATE), 0)
    for (name, parameter), value in zip(shared.named_parameters(), other.parameters(), strict=True):
        is_muons = "exp_avg" not in optimizer.state[parameter]
        assert torch.equal(parameter, value) != is_muons, name


def test_a_step_is_orthogonal_part_by_part_and_sized_for_its_width(shared: DecoderLM) -> None:
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    step(shared, build_optimizer(shared, recipe_with(muon_experts=True, weight_decay=0), RATE), 0)
    change = {name: before[name] - value for name, value in shared.state_dict().items()}
    d_model, head_dim = shared.architecture.d_model, 8
    parts = [
        *change["layers.0.mixer.qkv.weight"].split([2 * head_dim, head_dim, head_dim]),
        change["layers.0.mixer.output.weight"],
        *change["layers.0.ffn.up.weight"].chunk(2),
        change["layers.0.ffn.down.weight"],
        *(half for expert in change["layers.1.ffn.experts.w_up"] for half in expert.chunk(2)),
        *(expert.mT for expert in change["layers.1.ffn.experts.w_down"]),
    ]
    assert len(parts) == 3 + 1 + 2 + 1 + 3 * 4
    for part in parts:
        d_out, d_in = part.shape
        assert d_model in part.shape
        size = RATE * 0.2 * math.sqrt(64) * math.sqrt(d_out / d_in)
        values = torch.linalg.svdvals(part) / size
        assert float(values.max()) < 1.25
        assert float(values.median()) > 0.6, "a gradient of few tokens may lack some directions"


def test_a_restored_optimizer_continues_bit_for_bit(shared: DecoderLM) -> None:
    recipe = recipe_with(muon_experts=True)
    optimizer = build_optimizer(shared, recipe, RATE)
    for seed in range(3):
        step(shared, optimizer, seed)
    tensors = capture(shared, optimizer)
    other = build_model(shared.architecture, seed=1)
    restore_model(other, tensors)
    restored = build_optimizer(other, recipe, RATE)
    restore_optimizer(restored, tensors)
    for seed in range(3, 6):
        for each in (optimizer, restored):
            for group in each.param_groups:
                group["lr"] = group["peak_lr"] / seed
        step(shared, optimizer, seed)
        step(other, restored, seed)
    for one, two in zip(shared.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_proxy_trains_with_muon_and_resumes_exactly(
    corpus: Corpus,
    resolved: Resolved,
    recipe: TrainingRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    recipe = recipe.replace(optimizer="muon", muon_experts=True, precision=precision)

    def train(folder: Path | None, on_progress: Callable[[object], None] | None = None) -> float:
        (run,) = train_proxy(
            resolved,
            horizons=[60 * BATCH],
            corpus=corpus,
            recipe=recipe,
            seed=0,
            checkpoint_dir=folder,
            on_progress=on_progress,
        )
        assert run.loss is not None
        assert run.unigram_loss is not None
        assert run.loss < run.unigram_loss - 0.3
        return run.loss

    reports = 0

    def stop(_: object) -> None:
        nonlocal reports
        reports += 1
        if reports == 20:
            raise Stopped

    unbroken = train(None)
    monkeypatch.setattr(leg, "PROGRESS_SECONDS", 0.0)
    with pytest.raises(Stopped):
        train(tmp_path, stop)
    assert train(tmp_path) == unbroken


def test_a_closure_is_called_with_gradients() -> None:
    weight = torch.nn.Parameter(torch.eye(3))
    optimizer = Muon(
        [
            {"params": [weight], "lr": 0.1, "weight_decay": 0.0, "rows": [(3,)]},
            {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1, "weight_decay": 0.0},
        ],
        momentum=0.0,
        dtype=torch.float32,
        betas=(0.9, 0.95),
        eps=1e-8,
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = (weight * torch.diag(torch.tensor([1.0, 2.0, 3.0]))).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 6.0
    assert float(weight.detach().diagonal().max()) < 1
