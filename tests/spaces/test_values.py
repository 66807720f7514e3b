"""The small values: mixtures, designs, layers, ladders, runs' keys; validation, hashing, round trips."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moe_search.spaces.architecture import Architecture, DenseFFN, Layer, MoEFFN
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError, MoESearchError, ResourceError
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.mixers import GroupedQueryAttention
from moe_search.spaces.mixture import Mixture

names = st.text("abcdefgh", min_size=1, max_size=6)


@given(st.dictionaries(names, st.floats(1e-6, 1e6), min_size=1, max_size=10))
def test_mixture_is_normalised_sorted_and_survives_json(weights: dict[str, float]) -> None:
    mixture = Mixture.normalised(weights)
    assert sum(mixture.weights) == pytest.approx(1)
    assert list(mixture.domains) == sorted(weights)
    assert Mixture.model_validate_json(mixture.model_dump_json()) == mixture
    assert hash(Mixture.model_validate(dict(mixture.items()))) == hash(mixture)
    assert mixture["?"] == 0


def test_mixture_refuses_what_is_not_on_the_simplex() -> None:
    with pytest.raises(ValidationError, match=r"mixture.b: the weight of b is -0.1; allowed: 0 <= weight"):
        Mixture.model_validate({"a": 1.1, "b": -0.1})
    with pytest.raises(ValidationError, match=r"sum to 0.5.*a: 0.4, b: 0.6"):
        Mixture.model_validate({"a": 0.2, "b": 0.3})


def test_design_takes_named_schedules_and_round_trips() -> None:
    design = Design(schedule="wave", mixture=Mixture.uniform(("a", "b")))
    assert design.schedule.wave > 0
    assert Design.model_validate_json(design.model_dump_json()) == design
    assert pickle.loads(pickle.dumps(design)) == design
    assert design.fingerprint() == design.replace(granularity=1.0).fingerprint()
    assert design.fingerprint() != design.replace(granularity=2.0).fingerprint()


def test_design_refuses_contradictions() -> None:
    mixture = Mixture.uniform(("a",))
    with pytest.raises(ValidationError, match=r"n_experts and active_width are both given.*leave out active_width"):
        Design(n_experts=8, active_width=1.0, mixture=mixture)
    with pytest.raises(ValidationError, match="unknown schedule 'zigzag'"):
        Design(schedule="zigzag", mixture=mixture)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Design.model_validate({"granularty": 2, "mixture": {"a": 1}})


def test_layers_refuse_impossible_sizes() -> None:
    with pytest.raises(ValidationError, match=r"top_k is 8 but the layer has 4 experts; allowed: 1 <= top_k <= 4"):
        MoEFFN(n_experts=4, top_k=8, d_expert=16)
    with pytest.raises(ValidationError, match=r"does not divide n_heads = 6; allowed: one of \[1, 2, 3, 6\].*= 3"):
        GroupedQueryAttention(n_heads=6, n_kv_heads=4, head_dim=16)
    with pytest.raises(ValidationError, match="frozen"):
        DenseFFN(d_ff=3).d_ff = 4  # type: ignore[misc]


def test_architecture_needs_layers() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Architecture(d_model=8, vocab_size=8, seq_len=8, layers=())
    hybrid = Architecture(d_model=8, vocab_size=8, seq_len=8, layers=(Layer(mixer=None, ffn=DenseFFN(d_ff=8)),))
    assert (hybrid.n_layers, hybrid.moe_layers) == (1, ())


def test_ladder_orders_its_rungs() -> None:
    ladder = Ladder(sizes=(4, 1, 2), tokens=(100, 10, 100))
    assert (ladder.sizes, ladder.tokens) == ((1, 2, 4), (10, 100))
    assert [(scale.n_active, scale.tokens) for scale in ladder.scales()] == [
        (1, 10),
        (2, 10),
        (4, 10),
        (1, 100),
        (2, 100),
        (4, 100),
    ]
    assert ladder.top == Scale(n_active=4, tokens=100) == ladder.scales()[-1]
    assert ladder.horizons(100) == (10, 100)
    assert ladder.horizons(50) == (10,)
    assert Ladder.model_validate_json(ladder.model_dump_json()) == ladder


@pytest.mark.parametrize(("values", "field"), [({"sizes": (), "tokens": (1,)}, "sizes"), ({"sizes": (1,)}, "tokens")])
def test_empty_ladder_is_refused(values: dict[str, tuple[int, ...]], field: str) -> None:
    with pytest.raises(ValidationError, match=f"ladder.{field}: the ladder is empty"):
        Ladder.model_validate(values)


def test_errors_are_one_sentence() -> None:
    error = InvalidInputError("x is 3", where="space.x", allowed="1 <= x <= 2", fix="x = 2")
    assert str(error) == "space.x: x is 3; allowed: 1 <= x <= 2; nearest fix: x = 2"
    assert isinstance(error, ValueError)
    assert isinstance(error, MoESearchError)
    assert isinstance(ResourceError("disk full"), MoESearchError)
