"""What the papers of the dense and sparse laws say of their own coefficients."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.laws import get_law
from moe_search.scaling.repetition import unique_tokens


def test_four_epochs_are_nearly_as_good_as_fresh_tokens_and_forty_are_not() -> None:
    law = get_law("muennighoff")
    k = law.published["muennighoff2023"]
    unique = np.full(3, 100e9)
    repeated = law.predict(k, {"N": np.full(3, 1e9), "D": unique * np.array([4, 16, 40]), "U": unique})
    fresh = law.predict(k, {"N": np.full(3, 1e9), "D": unique * np.array([4, 16, 40]), "U": np.full(3, 1e14)})
    excess = repeated / fresh - 1
    assert excess[0] < 0.005
    assert (np.diff(excess) > 0).all()
    assert excess[2] > 5 * excess[0]


def test_repetitions_are_worth_less_than_a_half_after_about_eleven() -> None:
    """Worth of the next repetition is exp(-r/15.39): half of a fresh token's at r = 10.7."""
    law = get_law("muennighoff")
    k = law.published["muennighoff2023"]
    step = 1e-4

    def marginal(epochs: float) -> float:
        x = {"N": np.full(2, 1e6), "D": 1e10 * (epochs + np.array([0, step])), "U": np.full(2, 1e10)}
        token_term = law.predict(k, x) - k["E"] - k["A"] / 1e6 ** k["alpha"]
        worth = (k["B"] / token_term) ** (1 / k["beta"])
        return float(np.diff(worth)[0] / (1e10 * step))

    assert marginal(1.0) == pytest.approx(1.0, abs=1e-3)
    assert marginal(1 + 15.39 * np.log(2)) == pytest.approx(0.5, abs=1e-3)


def test_kaplan_splits_compute_by_its_exponents() -> None:
    law = get_law("kaplan")
    derived = law.derived({name: np.array([value]) for name, value in law.published["kaplan2020"].items()})
    assert derived["allocation_exponent"][0] == pytest.approx(0.103 / 0.179)
    assert derived["Nc"][0] == pytest.approx(6.4e13, rel=1e-6)


def test_the_best_sparsity_rises_with_size_at_equal_compute() -> None:
    """Abnar et al.: at fixed training compute the best activation ratio falls towards zero as the model grows."""
    law = get_law("sparsity")
    ratio = np.geomspace(0.01, 1, 200)

    def best(total: float) -> float:
        tokens = 1e20 / (6 * total * ratio)
        loss = law.predict(law.published["abnar2025"], {"N": np.full(200, total), "D": tokens, "A": ratio})
        return float(ratio[np.argmin(loss)])

    ratios = [best(total) for total in (3e8, 1e9, 1e10)]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 0.1


def test_gadre_is_chinchilla_with_one_exponent() -> None:
    law, k = get_law("gadre"), {"E": 1.7, "a": 170.0, "b": 270.0, "h": 0.15}
    frame = pl.DataFrame({"n_active": [1e8, 1e9, 3e9], "tokens": [1e10, 2e10, 3e11]})
    exponent = 2 * k["h"]
    like = {"E": 1.7, "A": 170.0 / 6 ** k["h"], "B": 270.0 / 6 ** k["h"], "alpha": exponent, "beta": exponent}
    chinchilla = get_law("chinchilla")
    np.testing.assert_allclose(
        law.predict(k, law.variables(frame)), chinchilla.predict(like, chinchilla.variables(frame)), rtol=1e-12
    )


def test_unique_tokens_from_whatever_column_there_is() -> None:
    tokens = pl.DataFrame({"tokens": [100.0, 100.0]})
    assert unique_tokens(tokens, law="x").tolist() == [100, 100]
    assert unique_tokens(tokens.with_columns(unique_tokens=pl.lit(25.0)), law="x").tolist() == [25, 25]
    assert unique_tokens(tokens.with_columns(epochs=pl.Series([4.0, 0.5])), law="x").tolist() == [25, 100]
    weights = {"weight/a": [0.5, 1.0], "weight/b": [0.5, 0.0], "epochs/a": [5.0, 2.0], "epochs/b": [0.1, None]}
    by_domain = tokens.with_columns(**{name: pl.Series(values) for name, values in weights.items()})
    assert unique_tokens(by_domain, law="x") == pytest.approx([60, 50])
