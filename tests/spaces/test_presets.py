"""The published models: official totals, the table's own counts, and the models that transformers builds."""

import statistics
from typing import Any

import pytest

from moe_search.spaces.accounting import count, flops_per_token
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.presets import published, published_names, published_row
from moe_search.spaces.presets.families import FAMILY

NAMES = published_names()
COARSE = {"Granite-3.0-1B-A400M": 2.7, "Sigma-MoE-Tiny": 2.1}
"""Percent: the one's official total has one digit, the other's head layout is not public."""
OWN_SHEET = {
    "MiniMax-M3": 0.9,  # the table's count leaves out the sparse indexer
    "ZAYA1-8B": 3.2,  # the table's count approximates router and convolutions; ours is that of transformers
}
"""Percent by which our count may differ from the table's."""


def _error_percent(name: str) -> float:
    row = published_row(name)
    return 100 * (row.total_b(count(published(name))) / row.official_total_b - 1)


def test_every_row_has_a_family() -> None:
    assert len(NAMES) == 44
    assert set(FAMILY) == set(NAMES)


def test_median_error_of_the_totals() -> None:
    assert statistics.median(abs(_error_percent(name)) for name in NAMES) <= 0.2


@pytest.mark.parametrize("name", NAMES)
def test_total_is_near_the_official_one(name: str) -> None:
    assert abs(_error_percent(name)) <= COARSE.get(name, 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_counts_agree_with_the_table(name: str) -> None:
    row, counted = published_row(name), count(published(name))
    assert counted.n_total / 1e9 == pytest.approx(row.calc_total_b, rel=OWN_SHEET.get(name, 0.1) / 100, abs=5e-4)
    assert counted.n_active / 1e9 == pytest.approx(row.calc_active_all_b, rel=OWN_SHEET.get(name, 0.1) / 100, abs=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_dimensions_are_those_of_the_row(name: str) -> None:
    row, architecture = published_row(name), published(name)
    assert (architecture.name, architecture.d_model, architecture.vocab_size) == (name, row.d_model, row.vocab)
    assert architecture.n_layers == row.layers
    assert architecture.tied_embeddings == row.tied_embeddings
    assert len(architecture.moe_layers) == row.moe_layers
    for moe in architecture.moe_layers:
        assert (moe.n_experts, moe.top_k, moe.d_expert) == (row.experts, row.top_k, row.d_expert)
        assert (moe.latent_dim, moe.gated) == (row.latent_dim, row.gated_ffn)
        assert moe.shared_width == row.shared_ff


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip_and_sane_flops(name: str) -> None:
    architecture = published(name)
    assert Architecture.model_validate_json(architecture.model_dump_json()) == architecture
    flops, counted = flops_per_token(architecture), count(architecture)
    matrices = 2 * (counted.n_active - (0 if architecture.tied_embeddings else counted.embedding))
    assert 0.98 * matrices < flops.forward - flops.attention_scores <= matrices
    assert flops.train == 3 * flops.forward


def test_names_forgive_case_and_suggest() -> None:
    assert published("qwen3-30b-a3b") is published("Qwen3-30B-A3B")
    with pytest.raises(
        InvalidInputError, match=r"no published model is called 'Qwen3-30B'.*nearest fix: Qwen3-30B-A3B"
    ):
        published("Qwen3-30B")


def _transformers_config(name: str) -> tuple[str, dict[str, Any]]:
    config = published_row(name).config()
    model_type = {"kimi_k2": "deepseek_v3", "minimax_m1": "minimax"}.get(config["model_type"], config["model_type"])
    if model_type == "minimax":
        kinds = config.pop("attn_type_list")
        config["layer_types"] = ["full_attention" if kind else "linear_attention" for kind in kinds]
    del config["model_type"]
    attn_config, ffn_config = config.pop("attn_config"), config.pop("ffn_config")
    if model_type == "dbrx":
        names = {"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
        config = {new: config[old] for old, new in names.items()} | {"vocab_size": config["vocab_size"]}
        config |= {"attn_config": attn_config | {"rope_theta": 1e4}, "ffn_config": ffn_config}
    return model_type, config


NOT_IN_TRANSFORMERS = {"deepseek", "bailing_moe", "bailing_moe_v2", "grok-1", "hunyuan", "kimi_linear"}
"""Families without a model there; its Kimi Linear lacks what Kimi-K3 adds."""


@pytest.mark.parametrize("name", [name for name in NAMES if FAMILY[name][0] not in NOT_IN_TRANSFORMERS])
def test_counts_equal_the_full_size_transformers_model(name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model_type, values = _transformers_config(name)
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers ({transformers.__version__}) has no {model_type}")
    config = transformers.CONFIG_MAPPING[model_type](**values)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    assert count(published(name)).n_total == sum(p.numel() for p in model.parameters())
