import numpy as np
import polars as pl
import pytest

from moe_search.scaling.effects import effects
from moe_search.scaling.laws import get_law


def runs(count: int = 120, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(3, 4.0), count)
    frame = pl.DataFrame(
        {
            "n_active": 10 ** rng.uniform(6, 7.5, count),
            "tokens": 10 ** rng.uniform(7, 9, count),
            "granularity": 2.0 ** rng.integers(0, 5, count),
            "activation_ratio": 2.0 ** -rng.integers(1, 5, count),
            "n_shared_experts": rng.integers(0, 2, count),
            "router": rng.choice(["softmax_topk", "sigmoid", "random"], count, p=[0.5, 0.3, 0.2]),
            **{f"weight/{name}": weights[:, i] for i, name in enumerate("abc")},
        }
    )
    law = get_law("chinchilla")
    loss = law.predict(law.published["besiroglu2024"], law.variables(frame)) * 0.4
    log_effect = (
        0.02 * np.log2(frame["activation_ratio"].to_numpy())
        + 0.05 * (frame["router"] == "random").to_numpy()
        - 0.1 * weights[:, 0]
    )
    return frame.with_columns(pl.Series("bpb", loss * np.exp(log_effect + 0.003 * rng.normal(size=count))))


def test_effects_are_found_with_sign_size_and_interval() -> None:
    found = {(effect.knob, str(effect.end)): effect for effect in effects(runs())}
    sparse = next(effect for (knob, _), effect in found.items() if knob == "activation_ratio")
    octaves = np.log2(float(sparse.end) / float(sparse.start))
    assert sparse.low95 < 100 * np.expm1(0.02 * octaves) < sparse.high95
    assert sparse.low95 > 0
    random = found["router", "random"]
    assert random.start == "softmax_topk"
    assert random.percent == pytest.approx(100 * np.expm1(0.05), abs=0.6)
    for knob in ("granularity", "n_shared_experts"):
        nothing = next(effect for (name, _), effect in found.items() if name == knob)
        assert nothing.low95 - 0.2 < 0 < nothing.high95 + 0.2
        assert abs(nothing.percent) < 0.5


def test_a_weight_grows_at_the_expense_of_the_others() -> None:
    found = {effect.knob: effect for effect in effects(runs())}
    a, b = found["weight/a"], found["weight/b"]
    truth = 100 * np.expm1(-0.1 * (float(a.end) - float(a.start)))
    assert a.low95 < truth < a.high95 < 0
    assert b.percent > 0, "more of b is less of a"


def test_a_table_without_variation_or_with_few_runs_says_little() -> None:
    assert effects(runs().select("n_active", "tokens", "bpb")) == ()
    few = effects(runs(5))
    assert all(effect.low95 < 0 < effect.high95 for effect in few if effect.knob == "granularity")
