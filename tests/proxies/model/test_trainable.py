"""What cannot be trained is refused by name."""

import pytest

from moe_search.proxies.model import build_model, check_trainable
from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN, Routing
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixers import GroupedQueryAttention, LatentAttention

ATTENTION = GroupedQueryAttention(n_heads=2, n_kv_heads=2, head_dim=8)
ROUTED = MoEFFN(n_experts=4, top_k=2, d_expert=8)
PLAIN = Layer(mixer=ATTENTION, ffn=ROUTED)
LATENT = LatentAttention(n_heads=2, kv_rank=8, nope_dim=8, rope_dim=8, value_dim=8)


def model_of(*layers: Layer, **fields: object) -> Architecture:
    return Architecture.model_validate({"d_model": 16, "vocab_size": 32, "seq_len": 8, "layers": layers, **fields})


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (model_of(PLAIN, Layer(mixer=LATENT, ffn=ROUTED)), r"layers\[1\].mixer: 'mla' cannot be trained"),
        (model_of(Layer(mixer=None, ffn=ROUTED)), r"layers\[0\].mixer: nothing cannot be trained"),
        (model_of(Layer(mixer=ATTENTION, ffn=None)), r"layers\[0\].ffn: nothing cannot be trained"),
        (model_of(Layer(mixer=ATTENTION.replace(sinks=True), ffn=ROUTED)), r"layers\[0\].mixer.sinks: sinks = True"),
        (model_of(Layer(mixer=ATTENTION.replace(window=4), ffn=ROUTED)), r"layers\[0\].mixer.window: window = 4"),
        (model_of(Layer(mixer=ATTENTION.replace(bias=True), ffn=ROUTED)), r"mixer.bias: bias = True"),
        (model_of(Layer(mixer=ATTENTION.replace(head_dim=7), ffn=ROUTED)), r"mixer.head_dim: head_dim is 7"),
        (model_of(Layer(mixer=ATTENTION, ffn=ROUTED.replace(latent_dim=8))), r"ffn.latent_dim: latent_dim = 8"),
        (model_of(Layer(mixer=ATTENTION, ffn=ROUTED.replace(shared_expert_gate=True))), "ffn.shared_expert_gate"),
        (model_of(Layer(mixer=ATTENTION, ffn=DenseFFN(d_ff=8, bias=True))), "ffn.bias: bias = True"),
        (model_of(PLAIN, post_norm=True), "^post_norm: post_norm = True"),
        (model_of(PLAIN, routing=Routing(router="oracle")), "routing.router: unknown name 'oracle'"),
        (model_of(PLAIN, routing=Routing(balancing="karma")), "routing.balancing: unknown name 'karma'"),
    ],
)
def test_the_part_is_named(architecture: Architecture, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build_model(architecture, seed=0)


def test_a_plain_decoder_passes_and_is_built() -> None:
    plain = model_of(PLAIN, Layer(mixer=ATTENTION.replace(qk_norm=True), ffn=DenseFFN(d_ff=8, gated=False)))
    check_trainable(plain)
    assert len(build_model(plain, seed=0).layers) == 2
