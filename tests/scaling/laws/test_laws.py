"""The published facts each law must reproduce, and what holds for every law of the library."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.law import Array
from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.laws.efficiency_leverage import LAW as LEVERAGE
from moe_search.scaling.laws.fine_grained import LAW as FINE_GRAINED
from moe_search.scaling.laws.joint_moe import LAW as JOINT_MOE
from moe_search.spaces.errors import InvalidInputError

DOMAINS = ("a", "b", "c")


def some_variables(rng: np.random.Generator, runs: int, domains: tuple[str, ...] = ()) -> dict[str, Array]:
    return {
        "N": 10 ** rng.uniform(6, 10, runs),
        "D": 10 ** rng.uniform(7, 11, runs),
        "C": 10 ** rng.uniform(15, 22, runs),
        "X": rng.uniform(1, 30, runs),
        "E": rng.uniform(1, 30, runs),
        "A": rng.uniform(0.02, 1, runs),
        "G": rng.uniform(0.5, 20, runs),
        "M": 10 ** rng.uniform(0, 3, runs),
        "U": 10 ** rng.uniform(6, 10, runs),
        "D1": 10 ** rng.uniform(7, 11, runs),
        "D2": 10 ** rng.uniform(7, 11, runs),
        "R": rng.uniform(1, 20, (runs, 1)),
        "S": rng.uniform(20, 200, (runs, 1)),
        "w": rng.dirichlet(np.ones(len(domains) or 4), runs) * (len(domains) or 4),
        "r": rng.uniform(0.01, 1, runs),
        "s": 10 ** rng.uniform(2, 5, runs),
        "h": rng.dirichlet(np.ones(len(domains)), runs) if domains else np.ones((runs, 1)),
        "lr": 10 ** rng.uniform(-4, -2, runs),
        "batch": 10 ** rng.uniform(4, 7, runs),
        "sweep": np.ones((runs, 1)),
    }


def some_runs(rng: np.random.Generator, runs: int) -> pl.DataFrame:
    """Tiny runs in which every variable of every law varies on its own."""
    active, tokens = 10 ** rng.uniform(5.5, 8, runs), 10 ** rng.uniform(7, 10, runs)
    expansion, granularity = 2.0 ** rng.integers(0, 6, runs), 2.0 ** rng.integers(0, 6, runs)
    return pl.DataFrame(
        {
            "n_active": active,
            "n_active_non_embedding": active,
            "n_total": active * expansion,
            "n_total_non_embedding": active * expansion,
            "tokens": tokens,
            "dense_tokens": 10 ** rng.uniform(7, 10, runs),
            "unique_tokens": tokens / rng.uniform(1, 30, runs),
            "expansion": expansion,
            "activation_ratio": 1 / expansion,
            "granularity": granularity,
            "train_flops": 6 * active * tokens,
            "learning_rate": 10 ** rng.uniform(-4, -2, runs),
            "batch_tokens": 10 ** rng.uniform(4, 7, runs),
            "domain_weight": rng.uniform(0.01, 1, runs),
            **{
                f"weight/{name}": column
                for name, column in zip(DOMAINS, rng.dirichlet(np.ones(3), runs).T, strict=True)
            },
        }
    )


def test_the_library_is_what_its_folder_holds() -> None:
    assert {"chinchilla", "efficiency_leverage", "fine_grained", "joint", "joint_moe"} <= set(law_names())
    with pytest.raises(InvalidInputError, match=r"unknown law 'chinchila'.*nearest fix: chinchilla"):
        get_law("chinchila")


@pytest.mark.parametrize("domains", [(), DOMAINS])
@pytest.mark.parametrize("name", law_names())
def test_jacobian_is_the_derivative_of_the_log_loss(name: str, domains: tuple[str, ...]) -> None:
    law, rng = get_law(name).for_domains(domains), np.random.default_rng(0)
    if domains and not law.domains:
        return  # a law without coefficients by domain is the same law
    x = some_variables(rng, 9, domains)
    theta = np.array([p.internal(p.center) + 0.3 * p.spread * rng.normal(size=5) for p in law.parameters]).T
    value, jacobian = law.log_loss_and_jacobian(theta, x)
    np.testing.assert_allclose(value, law.log_loss(theta, x))
    for j in range(theta.shape[1]):
        step = 1e-5 * np.eye(theta.shape[1])[j]
        slope = (law.log_loss(theta + step, x) - law.log_loss(theta - step, x)) / 2e-5
        np.testing.assert_allclose(jacobian[:, j], slope, atol=1e-7, rtol=1e-5, err_msg=law.names[j])


@pytest.mark.parametrize("name", law_names())
def test_parameters_are_sane(name: str) -> None:
    law = get_law(name)
    frame = some_runs(np.random.default_rng(1), 3)
    variables = set(law.variables(frame))
    for parameter in law.parameters:
        assert parameter.lower < parameter.center < parameter.upper, parameter.name
        assert parameter.natural(parameter.internal(parameter.center)) == pytest.approx(parameter.center)
        assert set(parameter.variables) <= variables, parameter.name
    assert len(set(law.names)) == len(law.names)
    for coefficients in law.published.values():
        assert set(coefficients) <= set(law.names)


@pytest.mark.parametrize("name", law_names())
def test_adaptors_name_the_missing_column(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"law {name}: there is no column"):
        get_law(name).variables(pl.DataFrame({"loss": [1.0]}))


@pytest.mark.parametrize("name", law_names())
def test_adaptors_refuse_values_that_have_no_logarithm(name: str) -> None:
    frame = some_runs(np.random.default_rng(1), 3).with_columns(tokens=pl.Series([1e9, -1.0, 1e9]))
    frame = frame.with_columns(train_flops=pl.Series([1e18, -1.0, 1e18]), n_active=pl.Series([1e6, -1.0, 1e6]))
    frame = frame.with_columns(pl.Series("weight/a", [1.0, -1.0, 1.0]), pl.lit(0.0).alias("weight/b"))
    frame = frame.with_columns(pl.Series("weight/c", [0.0, 2.0, 0.0]))
    with pytest.raises(InvalidInputError, match=r"-1\.0 in 1 of 3 rows|1 of 3 runs are not a mixture"):
        get_law(name).variables(frame)


# papers: Krajewski et al. 2024, table 2; the rounded coefficients give losses up to 0.023 below it
TABLE_2 = [
    (2.95e18, 1e8, 4.37e9, 8, 3.133),
    (1.93e20, 1e9, 28.94e9, 16, 2.491),
    (1.41e21, 3e9, 72.90e9, 16, 2.245),
    (6.46e21, 7e9, 137.60e9, 32, 2.076),
    (4.16e23, 70e9, 941.07e9, 32, 1.694),
    (5.69e24, 300e9, 2.96e12, 64, 1.503),
    (4.97e25, 1e12, 7.94e12, 64, 1.367),
]


@pytest.mark.parametrize(("flops", "size", "tokens", "granularity", "loss"), TABLE_2)
def test_fine_grained_optimum(flops: float, size: float, tokens: float, granularity: int, loss: float) -> None:
    optimum = FINE_GRAINED.compute_optimal(flops)
    assert optimum.granularity == granularity
    assert optimum.loss == pytest.approx(loss, abs=0.025)
    assert optimum.base_parameters == pytest.approx(size, rel=0.05)
    assert optimum.tokens == pytest.approx(tokens, rel=0.05)


# papers: Ludziejewski et al. 2025, table 4
TABLE_4 = {
    1: (30.3640, -0.1817, 53.9838, -0.1965),
    2: (27.7982, -0.1780, 66.8401, -0.2065),
    4: (24.8462, -0.1731, 87.7022, -0.2192),
    8: (21.8330, -0.1676, 119.9126, -0.2338),
    16: (19.0159, -0.1617, 167.5073, -0.2494),
    32: (16.5424, -0.1557, 234.6726, -0.2652),
}


@pytest.mark.parametrize("experts", TABLE_4)
def test_joint_moe_reduced_coefficients(experts: int) -> None:
    assert tuple(JOINT_MOE.reduced(experts).values()) == pytest.approx(TABLE_4[experts], rel=0.005)


@pytest.mark.parametrize(
    ("flops", "experts", "active", "tokens"),
    [(1e20, 1, 1.7e9, 9.7e9), (1e20, 32, 669e6, 24.9e9), (1e22, 8, 14.4e9, 115.8e9)],
)
def test_joint_moe_compute_optimum(flops: float, experts: int, active: float, tokens: float) -> None:
    assert JOINT_MOE.compute_optimal(flops, experts) == pytest.approx((active, tokens), rel=0.03)


def test_joint_moe_optimum_is_a_minimum_of_the_law() -> None:
    best, _ = JOINT_MOE.compute_optimal(1e21, 8)
    sizes = best * np.array([0.8, 1.0, 1.25])
    loss = JOINT_MOE.predict(
        JOINT_MOE.published["ludziejewski2025"], {"N": sizes, "D": 1e21 / (6 * sizes), "E": np.full(3, 8.0)}
    )
    assert loss.argmin() == 1


def test_efficiency_leverage_facts() -> None:
    assert LEVERAGE.leverage(0.031, 12, 1e22) > 7
    assert 8 <= LEVERAGE.best_granularity() <= 12
    assert LEVERAGE.leverage(1, [1, 8, 12], 1e22) == pytest.approx(1, abs=0.02)
    table = LEVERAGE.leverage([0.10, 0.031, 0.20, 0.10, 0.034, 0.008], [8, 12, 12, 12, 12, 12], [1e20] * 2 + [1e22] * 4)
    assert table == pytest.approx([2.89, 4.55, 2.70, 4.04, 6.96, 11.16], rel=0.005)


def test_efficiency_leverage_is_a_ratio_of_compute_at_equal_loss() -> None:
    coefficients = {"E": 1.6, "K": 2000.0, "s": 0.16, **LEVERAGE.published["tian2025"]}
    factor = float(LEVERAGE.leverage(0.05, 8, 1e20) / LEVERAGE.leverage(1, 8, 1e20))
    sparse, dense = (
        LEVERAGE.predict(coefficients, {"C": np.array([c]), "A": np.array([a]), "G": np.array([8.0])})
        for c, a in ((1e20, 0.05), (1e20 * factor, 1.0))
    )
    assert sparse == pytest.approx(dense, rel=1e-3)  # EL(A = 1) itself drifts by a few per mille with C
