"""Recommendations from a law whose answer is known."""

from collections.abc import Sequence

import numpy as np
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit, Observed
from moe_search.scaling.laws import get_law
from moe_search.scaling.prediction import Prediction
from moe_search.scaling.predictor import LawPredictor, design_frame
from moe_search.scaling.recommend import inference_gigabytes, recommend
from moe_search.scaling.recommendation import Recommendation, Target
from moe_search.spaces.accounting import flops_per_token, train_flops
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved, ShapeRules, resolve

MIXTURE = Mixture.uniform(("a", "b"))
SPARSE = Design(granularity=4, activation_ratio=0.125, mixture=MIXTURE)
DENSER = Design(granularity=4, activation_ratio=0.5, mixture=MIXTURE)
DENSE = Design(ffn="dense", mixture=MIXTURE)
RULES = ShapeRules(vocab_size=1024, seq_len=512, head_dim=32, d_model_multiple=32, d_expert_multiple=16)
NOTHING = Observed({})


class KnownLaw:
    """The joint law with known coefficients; draws differ by ``noise`` a design, so that ties can be made."""

    def __init__(self, noise: float = 0.0, **changes: float) -> None:
        self.law, self.noise = get_law("joint"), noise
        self.coefficients = {p.name: p.center for p in self.law.parameters} | changes

    def predict(self, resolved: Sequence[Resolved]) -> Prediction:
        mean = self.law.predict(self.coefficients, self.law.variables(design_frame(resolved)))
        draws = np.tile(mean[:, None], (1, 200))
        for row, one in enumerate(resolved):
            rng = np.random.default_rng(int(one.design.fingerprint(), 16))
            draws[row] *= np.exp(self.noise * rng.normal(size=200))
        return Prediction(mean, draws)


def test_the_size_is_the_laws_optimum_and_the_budget_is_spent_exactly() -> None:
    predictor = KnownLaw()
    result = recommend(Target(train_flops=1e16), [DENSE], RULES, predictor, observed=NOTHING)
    best = result.best
    assert best.train_flops == pytest.approx(1e16, rel=1e-6)
    assert best.train_flops == train_flops(best.architecture, best.tokens)
    for factor in (0.5, 0.7, 1.4, 2.0):
        other = resolve(DENSE, Scale(n_active=int(best.realised.n_active_non_embedding * factor), tokens=1), RULES)
        tokens = int(1e16 / train_flops(other.architecture, 1))
        other = other.model_copy(update={"scale": Scale(n_active=other.scale.n_active, tokens=tokens)})
        assert predictor.predict([other]).mean[0] > best.loss - 1e-4
    assert result.binding == ("train_flops",)
    assert "equal training compute, 1e+16 FLOPs" in result.constraint
    assert "total parameters are free" in result.constraint
    assert Recommendation.model_validate_json(result.model_dump_json()) == result


def test_sparser_wins_when_total_parameters_are_free_and_memory_turns_it_round() -> None:
    predictor = KnownLaw()
    free = recommend(
        Target(train_flops=1e17, cache_tokens=512), [SPARSE, DENSER, DENSE], RULES, predictor, observed=NOTHING
    )
    assert free.best.design == SPARSE
    limit = 0.1 * free.best.inference_gb
    tight = recommend(
        Target(train_flops=1e17, memory_gb=limit, cache_tokens=512),
        [SPARSE, DENSER, DENSE],
        RULES,
        predictor,
        observed=NOTHING,
    )
    assert tight.best.inference_gb <= limit
    assert tight.best.realised.activation_ratio > free.best.realised.activation_ratio
    assert tight.best.loss > free.best.loss
    assert tight.binding == ("memory_gb",)
    assert f"without it the best would take {free.best.inference_gb:.3g} GB" in tight.constraint
    loose = recommend(
        Target(train_flops=1e17, memory_gb=2 * free.best.inference_gb, cache_tokens=512),
        [SPARSE],
        RULES,
        predictor,
        observed=NOTHING,
    )
    assert loose.binding == ("train_flops",)
    assert "memory_gb does not bind" in loose.constraint


def test_total_parameters_and_data_limits_hold_and_are_named() -> None:
    predictor = KnownLaw()
    free = recommend(Target(train_flops=1e17), [SPARSE], RULES, predictor, observed=NOTHING).best
    total = recommend(
        Target(train_flops=1e17, max_total=free.realised.n_total // 3), [SPARSE], RULES, predictor, observed=NOTHING
    )
    assert total.best.realised.n_total <= free.realised.n_total // 3
    assert total.binding == ("max_total",)
    data = recommend(
        Target(train_flops=1e17, max_tokens=free.tokens // 4), [SPARSE], RULES, predictor, observed=NOTHING
    )
    assert free.tokens // 4 * 0.95 <= data.best.tokens <= free.tokens // 4  # sizes are whole numbers
    assert data.best.realised.n_active > free.realised.n_active
    assert data.binding == ("max_tokens",)


def test_inference_is_paid_from_the_budget_and_asks_for_a_smaller_model() -> None:
    predictor = KnownLaw()
    train = recommend(Target(train_flops=1e17), [DENSE], RULES, predictor, observed=NOTHING).best
    lifetime = recommend(
        Target(train_flops=1e17, inference_tokens=5 * train.tokens), [DENSE], RULES, predictor, observed=NOTHING
    )
    best = lifetime.best
    served = train_flops(best.architecture, 1) / 3 * 5 * train.tokens
    assert best.train_flops + served == pytest.approx(1e17, rel=1e-6)
    assert best.realised.n_active < train.realised.n_active
    assert "inference on" in lifetime.constraint


def test_near_optimal_set_holds_ties_and_not_losers() -> None:
    designs = [SPARSE, SPARSE.replace(granularity=5), DENSE]
    result = recommend(
        Target(train_flops=1e17), designs, RULES, KnownLaw(noise=0.01, delta=-0.3, omega=-0.3), observed=NOTHING
    )
    near = {choice.design for choice in result.near_optimal}
    assert near == {SPARSE, SPARSE.replace(granularity=5)}
    assert sum(choice.probability_best for choice in result.near_optimal) == pytest.approx(1)
    assert result.near_optimal[0] == result.best
    assert result.best.overlap_80
    assert [choice.difference for choice in result.near_optimal] == sorted(c.difference for c in result.near_optimal)
    assert any("cannot be told from the best" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(train_flops=1e17, memory_gb=1e-6), r"no candidate fits memory_gb = 1e-06.*nearest fix: memory_gb ="),
        (Target(train_flops=1e17, max_total=100), r"no candidate fits max_total = 100"),
        (Target(train_flops=1e12, inference_tokens=1e15), r"costs more than the budget at every size"),
    ],
)
def test_impossible_targets_say_what_would_do(target: Target, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        recommend(target, [SPARSE], RULES, KnownLaw(), observed=NOTHING)


def test_infeasible_candidates_are_counted_and_none_left_is_an_error() -> None:
    impossible = Design(granularity=1, activation_ratio=0.5, n_shared_experts=3, mixture=MIXTURE)
    result = recommend(Target(train_flops=1e16), [impossible, SPARSE], RULES, KnownLaw(), observed=NOTHING)
    assert (result.candidates, result.infeasible) == (1, 1)
    with pytest.raises(InvalidInputError, match="none is routed"):
        recommend(Target(train_flops=1e16), [impossible], RULES, KnownLaw(), observed=NOTHING)
    with pytest.raises(InvalidInputError, match="no candidate"):
        recommend(Target(train_flops=1e16), [], RULES, KnownLaw(), observed=NOTHING)


def test_memory_is_weights_and_cache() -> None:
    architecture = resolve(DENSE, Scale(n_active=1_000_000, tokens=1), RULES).architecture
    mixer = architecture.layers[0].mixer
    assert mixer is not None
    cache = 2 * 2 * mixer.n_kv_heads * mixer.head_dim * architecture.n_layers  # bytes a token, key and value
    one, two = (inference_gigabytes(architecture, tokens) for tokens in (1000, 2000))
    assert 1e9 * (two - one) == pytest.approx(1000 * cache)


@pytest.fixture(scope="module")
def proxies() -> Fit:
    """The joint law fitted to runs of the size of a campaign on a laptop."""
    rng = np.random.default_rng(0)
    designs = [
        Design(granularity=g, activation_ratio=a, mixture=Mixture.normalised({"a": w, "b": 1 - w}))
        for g in (1, 2, 4)
        for a in (0.25, 0.5, 1.0)
        for w in (0.3, 0.6)
    ]
    rows = [
        resolve(design, Scale(n_active=n, tokens=d), ShapeRules())
        for design in designs
        for n, d in ((200_000, 1_000_000), (600_000, 3_000_000), (1_500_000, 6_000_000))
    ]
    frame = design_frame(rows)
    law = get_law("joint")
    loss = law.predict({p.name: p.center for p in law.parameters}, law.variables(frame))
    return fit(law, frame.with_columns(bpb=loss * np.exp(0.005 * rng.normal(size=len(rows)))), resamples=300)


def test_far_targets_are_called_hypotheses_with_their_factor(proxies: Fit) -> None:
    result = recommend(
        Target(train_flops=1e21), [SPARSE, DENSER], RULES, LawPredictor(proxies), observed=proxies.observed
    )
    largest = proxies.observed.ranges["train_flops"][1]
    assert result.extrapolation["train_flops"] == pytest.approx(1e21 / largest, rel=1e-3)
    assert set(result.extrapolation) == {"n_active", "tokens", "train_flops"}
    sentence = next(warning for warning in result.warnings if "hypothesis" in warning)
    assert f"{1e21 / largest:.2g} times the FLOPs" in sentence
    assert result.best.high95 / result.best.low95 > 1.2, "an honest interval at a million times the compute is wide"
    assert any("activation_ratio 0.125 is outside the runs' range" in warning for warning in result.warnings)


def test_near_targets_are_predicted_well_and_without_alarm(proxies: Fit) -> None:
    designs = [Design(granularity=2, activation_ratio=0.5, mixture=MIXTURE)]
    target = Target(train_flops=2 * proxies.observed.ranges["train_flops"][1])
    result = recommend(target, designs, ShapeRules(), LawPredictor(proxies), observed=proxies.observed)
    truth = KnownLaw().predict(
        [
            resolve(
                designs[0], Scale(n_active=result.best.realised.n_active_non_embedding, tokens=1), ShapeRules()
            ).model_copy(update={"scale": Scale(n_active=1, tokens=result.best.tokens)})
        ]
    )
    assert result.best.low95 < truth.mean[0] < result.best.high95
    assert not any("hypothesis" in warning or "outside" in warning for warning in result.warnings)


def test_law_predictor_shares_a_designs_residual_over_scales_and_is_repeatable(proxies: Fit) -> None:
    predictor = LawPredictor(proxies)
    small, large = (resolve(SPARSE, Scale(n_active=n, tokens=10_000_000), RULES) for n in (500_000, 2_000_000))
    other = resolve(DENSER, Scale(n_active=500_000, tokens=10_000_000), RULES)
    draws = predictor.predict([small, large, other]).draws
    np.testing.assert_array_equal(draws[0], predictor.predict([small]).draws[0])
    noise_free = np.exp(proxies.log_means(design_frame([small, large, other]))[1])
    residual = np.log(draws / noise_free)
    np.testing.assert_allclose(residual[0], residual[1], atol=1e-12)
    assert np.abs(residual[0] - residual[2]).max() > 0


def test_cheaper_choices_are_the_front_beyond_the_best_and_keep_to_the_limits() -> None:
    target = Target(train_flops=1e17, cache_tokens=512)
    result = recommend(target, [SPARSE, DENSER, DENSE], RULES, KnownLaw(noise=0.01), observed=NOTHING)
    listed = [result.best, *result.cheaper]
    assert len(listed) > 3
    for place, choice in enumerate(listed[1:], start=1):
        assert choice.train_flops == pytest.approx(1e17, rel=1e-6)
        assert choice.inference_gb == inference_gigabytes(choice.architecture, 512)
        assert choice.inference_flops == flops_per_token(choice.architecture).forward
        assert choice.difference_low95 <= choice.difference <= choice.difference_high95
        for better in listed[:place]:
            assert better.loss <= choice.loss
            saved = (
                choice.inference_gb / better.inference_gb,
                choice.inference_flops / better.inference_flops,
            )
            assert min(saved) <= 0.8
    limit = 0.5 * result.best.inference_gb
    tight = recommend(
        target.replace(memory_gb=limit), [SPARSE, DENSER, DENSE], RULES, KnownLaw(noise=0.01), observed=NOTHING
    )
    assert tight.cheaper
    assert all(choice.inference_gb <= limit for choice in tight.cheaper)
    assert sum(choice.probability_best for choice in result.near_optimal) <= 1 + 1e-9
