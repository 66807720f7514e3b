"""The joint law holds the published laws, and what each of its factors does."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law
from moe_search.scaling.laws.joint import D0, LAW, N0
from moe_search.scaling.saturation import saturate

CENTER = {p.name: p.center for p in LAW.parameters}
NOTHING = 1e-9
"""The lowest value of an amplitude."""
PLAIN = CENTER | dict.fromkeys(("delta", "zeta", "omega", "eta", "mu", "kappa", "lambda", "rho"), 0.0)


def points(runs: int = 30) -> dict[str, Array]:
    """Dense runs of the reference shape on fresh tokens and the uniform mixture."""
    rng = np.random.default_rng(0)
    return {
        "N": 10 ** rng.uniform(6, 10, runs),
        "D": 10 ** rng.uniform(8, 12, runs),
        "X": np.ones(runs),
        "G": np.ones(runs),
        "R": np.ones((runs, 1)),
        "S": np.full((runs, 1), 64.0),
        "w": np.ones((runs, 8)),
    }


def varied(name: str, low: float, high: float) -> Array:
    rng = np.random.default_rng(1)
    return np.exp(rng.uniform(np.log(low), np.log(high), 30))


def test_it_is_chinchilla_where_nothing_but_size_and_tokens_varies() -> None:
    k = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}
    same = CENTER | k | {"A": 480 * N0**-0.35, "B": 2000 * D0**-0.37}
    np.testing.assert_allclose(LAW.predict(same, points()), get_law("chinchilla").predict(k, points()), rtol=1e-12)


def test_joint_moe_is_a_special_case_with_its_saturation() -> None:
    law = get_law("joint_moe")
    k = law.published["ludziejewski2025"]
    x = points() | {"X": varied("X", 1, 300)}
    log_start = np.log(k["E_start"])
    same = PLAIN | {
        "E": k["c"],
        "alpha": -(k["alpha"] + k["gamma"] * log_start),
        "beta": -(k["beta"] + k["zeta"] * log_start),
        "A": k["a"] * N0 ** (k["alpha"] + k["gamma"] * log_start) * k["E_start"] ** k["delta"],
        "B": k["b"] * D0 ** (k["beta"] + k["zeta"] * log_start) * k["E_start"] ** k["omega"],
        "delta": k["delta"] + k["gamma"] * np.log(N0),
        "zeta": k["gamma"],
        "omega": k["omega"] + k["zeta"] * np.log(D0),
        "eta": k["zeta"],
        "E_start": k["E_start"],
        "E_max": k["E_max"],
    }
    np.testing.assert_allclose(LAW.predict(same, x), law.predict(k, x | {"E": x["X"]}), rtol=1e-10)


@pytest.mark.parametrize("router", ["s_base", "hash", "rl_r"])
def test_clark_is_a_special_case_without_floor_and_tokens(router: str) -> None:
    law = get_law("clark")
    k = law.published[f"clark2022_{router}"]
    x = points() | {"X": varied("X", 1, 600)}
    log_start, c = np.log(k["E_start"]), k["c"] / np.log(10)
    alpha = -(k["a"] + c * log_start)
    same = PLAIN | {
        "E": NOTHING,
        "B": NOTHING,
        "alpha": alpha,
        "A": 10 ** k["d"] * N0**-alpha * k["E_start"] ** k["b"],
        "delta": k["b"] + c * np.log(N0),
        "zeta": c,
        "E_start": k["E_start"],
        "E_max": k["E_max"],
    }
    np.testing.assert_allclose(LAW.predict(same, x), law.predict(k, x | {"E": x["X"]}), rtol=1e-8)


def test_fine_grained_is_a_special_case_at_one_expansion() -> None:
    law = get_law("fine_grained")
    k = law.published["krajewski2024"]
    x = points() | {"G": varied("G", 1, 64)}
    same = PLAIN | {
        "E": k["c"],
        "alpha": k["alpha"],
        "beta": k["beta"],
        "A": (k["a"] + k["g"]) * N0 ** -k["alpha"],
        "B": k["b"] * D0 ** -k["beta"],
        "kappa": -k["gamma"] * k["g"] / (k["a"] + k["g"]),
        "gamma": k["gamma"],
    }
    total = 50.0  # parameters over active ones
    same["A"] *= total ** -k["alpha"]
    np.testing.assert_allclose(LAW.predict(same, x), law.predict(k, x | {"N": total * x["N"]}), rtol=1e-12)


def test_muennighoff_is_a_special_case_without_its_excess_parameters() -> None:
    law = get_law("muennighoff")
    k = dict(law.published["muennighoff2023"]) | {"R_N": 1e9}
    x = points() | {"R": varied("R", 1, 60)[:, None]}
    same = PLAIN | {
        "E": k["E"],
        "alpha": k["alpha"],
        "beta": k["beta"],
        "A": k["A"] * N0 ** -k["alpha"],
        "B": k["B"] * D0 ** -k["beta"],
        "R_D": k["R_D"],
    }
    np.testing.assert_allclose(LAW.predict(same, x), law.predict(k, x | {"U": x["D"] / x["R"][:, 0]}), rtol=1e-5)


def test_gadre_is_a_special_case_with_one_exponent() -> None:
    law, k = get_law("gadre"), {"E": 1.7, "a": 170.0, "b": 270.0, "h": 0.15}
    x = points()
    power = 2 * k["h"]
    same = PLAIN | {"E": k["E"], "alpha": power, "beta": power}
    same |= {"A": k["a"] / 6 ** k["h"] * N0**-power, "B": k["b"] / 6 ** k["h"] * D0**-power}
    own = {"C": 6 * x["N"] * x["D"], "M": x["D"] / x["N"]}
    np.testing.assert_allclose(LAW.predict(same, x), law.predict(k, own), rtol=1e-12)


def mixtures(runs: int = 30) -> dict[str, Array]:
    """Runs of one size, one number of tokens and mixtures of three domains, each absent in some."""
    shares = np.random.default_rng(2).dirichlet(np.ones(3), runs)
    shares[:6] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.3, 0.7], [0.9, 0, 0.1]]
    return points(runs) | {"N": np.full(runs, N0), "D": np.full(runs, D0), "w": 3 * shares}


def test_mixture_is_a_special_case_at_one_size() -> None:
    law, joint, x = get_law("mixture").for_domains("abc"), LAW.for_domains("abc"), mixtures()
    k = {"b": 0.12, "g": 0.6, "K/a": 3.1, "K/b": 4.2, "K/c": 3.6}
    uniform = law.predict(k, {"h": np.full((1, 3), 1 / 3)})[0]
    same = PLAIN | {"E": NOTHING, "B": NOTHING, "A": uniform, "b": k["b"], "g": k["g"]}
    same |= {f"K/{name}": k[f"K/{name}"] / k["K/a"] for name in "bc"}
    np.testing.assert_allclose(joint.predict(same, x), law.predict(k, {"h": x["w"] / 3}), rtol=1e-8)


def test_data_mixing_without_its_floor_is_the_limit_without_diminishing_returns() -> None:
    law, joint, x = get_law("data_mixing").for_domains("abc"), LAW.for_domains("abc"), mixtures()
    k = {"c": NOTHING, "K/a": 3.1, "K/b": 4.2, "K/c": 3.6}
    uniform = law.predict(k, {"h": np.full((1, 3), 1 / 3)})[0]
    same = PLAIN | {"E": NOTHING, "B": NOTHING, "A": uniform, "b": 50.0, "g": 1.0}
    same |= {f"K/{name}": k[f"K/{name}"] / k["K/a"] for name in "bc"}
    np.testing.assert_allclose(joint.predict(same, x), law.predict(k, {"h": x["w"] / 3}), rtol=5e-4)


def test_bimix_is_the_special_case_of_one_domain_that_is_worth_something() -> None:
    law, joint, x = get_law("bimix"), LAW.for_domains("abc"), mixtures()
    k = {"A": 25.0, "C": 1.6, "a": 0.4, "b": 0.06}
    share = np.maximum(x["w"][:, 0] / 3, 0.01)
    steps = 10 ** np.random.default_rng(3).uniform(2, 5, len(share))
    x |= {"D": steps, "w": 3 * np.stack([share, (1 - share) / 3, 2 * (1 - share) / 3], axis=1)}
    one_third = 3 ** k["b"]  # the loss at the uniform mixture, over that of the domain alone
    same = PLAIN | {"E": k["C"] * one_third, "A": NOTHING, "beta": k["a"], "B": k["A"] * one_third * D0 ** -k["a"]}
    same |= {"g": 0.6, "b": k["b"] / 0.6, "K/b": 100.0, "K/c": 100.0}
    np.testing.assert_allclose(joint.predict(same, x), law.predict(k, {"r": share, "s": steps}), rtol=1e-8)


def test_more_tokens_for_each_parameter_make_more_experts_worth_having() -> None:
    x = {name: values[:3] for name, values in points().items()}
    x |= {"X": np.array([1.0, 16, 4096]), "N": np.full(3, 1e8)}
    few, many = (LAW.predict(CENTER | {"beta": 0.001}, x | {"D": np.full(3, d)}) for d in (1e9, 1e12))
    assert few[1] - few[2] < 0.25 * (many[1] - many[2])
    assert few[0] > few[1]
    limit = saturate(np.array(4095.0), np.array(2.07), np.array(290 * 100.0))[0] - np.log(2.07)
    expected = 100**-0.25 * (1 - np.exp(-0.06 * limit))  # of the parameter term; no other has a part in it
    assert many[0] - many[2] == pytest.approx(expected, rel=1e-6)


def test_wide_shapes_repetition_and_narrow_mixtures_cost_something() -> None:
    x = {name: values[:3] for name, values in points().items()}
    x |= {"N": np.full(3, 1e7), "D": np.full(3, 1e9)}
    shapes = LAW.predict(CENTER, x | {"S": np.array([[64.0], [128], [256]])})
    assert 0.002 < shapes[1] / shapes[0] - 1 < 0.01
    assert shapes[2] > shapes[1]
    epochs = LAW.predict(CENTER, x | {"R": np.array([[1.0], [4], [100]])})
    assert epochs[1] / epochs[0] - 1 < 0.01
    assert epochs[2] / epochs[0] - 1 > 0.03
    mixtures = x | {"w": np.array([[1.0, 1, 1, 1], [2, 1, 0.5, 0.5], [4, 0, 0, 0]])}
    losses = LAW.predict(CENTER, mixtures)
    assert losses[0] < losses[1] < losses[2]
    assert np.ptp(LAW.predict(CENTER | {"b": 0.001}, mixtures)) < 0.001


@pytest.mark.parametrize(("width", "depth"), [("d_model", "n_layers"), ("hidden_size", "num_hidden_layers")])
def test_shapes_are_read_under_their_usual_names(width: str, depth: str) -> None:
    frame = pl.DataFrame({"n_active": [1e7, 1e8], "tokens": [1e9, 1e9], width: [512, 1024], depth: [4, 8]})
    np.testing.assert_array_equal(LAW.variables(frame)["S"][:, 0], [128.0, 128.0])
    np.testing.assert_array_equal(LAW.variables(frame.drop(depth))["S"][:, 0], [64.0, 64.0])


def test_sixty_proxy_runs_are_fitted_in_well_under_a_second() -> None:
    """The law's prior keeps every parameter where 60 runs say nothing, and what they say has an interval."""
    rng = np.random.default_rng(0)
    active, tokens = 10 ** rng.uniform(5.5, 7, 60), 10 ** rng.uniform(6.5, 8.5, 60)
    frame = pl.DataFrame({"n_active": active, "tokens": tokens, "expansion": 2.0 ** rng.integers(0, 5, 60)})
    loss = LAW.predict(CENTER, LAW.variables(frame)) * np.exp(0.005 * rng.normal(size=60))
    result = fit(LAW, frame.with_columns(bpb=pl.Series(loss)), resamples=200)
    assert {"kappa", "rho", "R_D", "b", "g"} <= {n for n, e in result.parameters.items() if e.value is None}
    assert result.starts_reached_best > 0.5 * result.starts_total
    for name in ("kappa", "rho", "R_D", "b", "g"):
        assert result.theta[LAW.index(name)] == pytest.approx(float(LAW.internal(CENTER)[0, LAW.index(name)]), abs=1e-3)
