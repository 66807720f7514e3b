import json
from pathlib import Path

import pytest

from moe_search.experiments.exporters import export, get_exporter, hf, names
from moe_search.spaces.accounting import count
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN, Routing
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixers import GroupedQueryAttention
from moe_search.spaces.presets import published

ATTENTION = GroupedQueryAttention(n_heads=4, n_kv_heads=2, head_dim=16, qk_norm=True)
EXPERTS = MoEFFN(n_experts=8, top_k=2, d_expert=24)


def model(*ffns: MoEFFN | DenseFFN, attention: GroupedQueryAttention = ATTENTION, **fields: object) -> Architecture:
    layers = tuple(Layer(mixer=attention, ffn=ffn) for ffn in ffns or (EXPERTS,) * 3)
    return Architecture.model_validate({"d_model": 64, "vocab_size": 512, "seq_len": 128, "layers": layers, **fields})


@pytest.mark.parametrize(
    "architecture",
    [
        model(),
        model(DenseFFN(d_ff=96), EXPERTS, EXPERTS, rope_theta=5e5, tied_embeddings=True),
        model(EXPERTS, DenseFFN(d_ff=40), EXPERTS),
        model(attention=ATTENTION.replace(bias=True, output_bias=True)),
        model(routing=Routing(router="topk_softmax", normalise_gates=False)),
        model(routing=Routing(normalise_gates=False, balancing="none")),
    ],
    ids=["plain", "leading-dense-tied", "dense-between", "biases", "softmax-after-top-k", "gates-not-normalised"],
)
def test_transformers_loads_it_unmodified_and_counts_the_same(architecture: Architecture, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    files = export("hf", architecture, tmp_path / "out")
    assert {path.name for path in files} == {"config.json", "generation_config.json", "README.md"}
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert type(config).__name__ == "Qwen3MoeConfig"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.rope_parameters["rope_theta"] == written["rope_theta"] == architecture.rope_theta
    assert config.num_experts == 8
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == count(architecture).n_total
    transformers.GenerationConfig.from_pretrained(tmp_path / "out")


def test_a_softmax_over_the_chosen_is_the_renormalised_form() -> None:
    assert hf.config(model(routing=Routing(router="topk_softmax", normalise_gates=False)))["norm_topk_prob"] is True
    assert hf.config(model(routing=Routing(normalise_gates=False)))["norm_topk_prob"] is False


def test_one_gate_alone_is_not_normalised() -> None:
    one = EXPERTS.replace(top_k=1)
    assert hf.config(model(one))["norm_topk_prob"] is False
    assert hf.config(model(one, routing=Routing(router="topk_softmax")))["norm_topk_prob"] is True, "its gate is 1"


def test_everything_that_would_be_lost_is_listed(tmp_path: Path) -> None:
    rich = model(
        MoEFFN(n_experts=8, top_k=2, d_expert=24, n_shared_experts=1),
        MoEFFN(n_experts=16, top_k=2, d_expert=24, n_shared_experts=1),
        attention=ATTENTION.replace(qk_norm=False, window=64, sinks=True),
        routing=Routing(router="sigmoid", balancing="loss_free"),
    )
    with pytest.raises(InvalidInputError) as refused:
        export("hf", rich, tmp_path / "out")
    for lost in (
        "expert counts",
        "8 to 16",
        "1 shared expert",
        "QK norm",
        "window of 64",
        "sinks",
        "sigmoid",
        "loss-free",
    ):
        assert lost in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "lost"),
    [
        (model(DenseFFN(d_ff=64)), "without experts"),
        (model(EXPERTS, MoEFFN(n_experts=8, top_k=4, d_expert=24)), "active experts"),
        (model(EXPERTS, MoEFFN(n_experts=8, top_k=2, d_expert=48)), "widths"),
        (model(DenseFFN(d_ff=64), DenseFFN(d_ff=96), EXPERTS), "dense layers"),
        (model(EXPERTS.replace(gated=False)), "without a gate"),
        (model(EXPERTS.replace(latent_dim=32)), "latent"),
        (model(EXPERTS.replace(bias=True)), "biases on router"),
        (model(attention=ATTENTION.replace(bias=True)), "only some"),
        (model(attention=ATTENTION.replace(output_gate=True)), "gate on the attention"),
        (model(hyper_connections=4), "hyper_connections"),
        (model(head_bias=True), "head_bias"),
        (published("DeepSeek-V3"), "mla"),
    ],
)
def test_what_the_family_cannot_say_is_refused(architecture: Architecture, lost: str) -> None:
    assert any(lost in clause for clause in get_exporter("hf").losses(architecture))


def test_a_published_member_of_the_family_is_exported_whole(tmp_path: Path) -> None:
    export("hf", published("Qwen3-30B-A3B"), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["num_experts"], written["num_experts_per_tok"], written["moe_intermediate_size"]) == (128, 8, 768)
    assert written["num_hidden_layers"] == 48


def test_a_tokenizer_goes_beside_the_configuration(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    files = export("hf", model(), tmp_path / "out", tokenizer=tokenizer)
    assert tmp_path / "out" / "tokenizer.json" in files


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match=r"megatron.*allowed: hf"):
        get_exporter("megatron")
    assert names() == ("hf",)
