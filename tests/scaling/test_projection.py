"""Amplitudes that are solved for by themselves."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.laws import get_law
from moe_search.scaling.problem import Problem, build_problem
from moe_search.scaling.projection import solved

TRUTH = {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3}


def problem_of(name: str = "chinchilla", *, noise: float = 0.0) -> Problem:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(7, 10, 60), "tokens": 10 ** rng.uniform(9, 11, 60)})
    law = get_law("chinchilla")
    loss = law.predict(TRUTH, law.variables(frame)) * np.exp(noise * rng.normal(size=60))
    frame = frame.with_columns(loss=pl.Series(loss))
    return build_problem(get_law(name), frame, "loss", frame, 1e-3)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("chinchilla", ("E", "A", "B")),
        ("chinchilla:E=1.69", ("A", "B")),
        ("kaplan", None),  # no sum
    ],
)
def test_amplitudes_are_what_scales_terms(name: str, names: tuple[str, ...] | None) -> None:
    problem = problem_of(name)
    found = problem.amplitudes
    assert (None if found is None else tuple(problem.law.names[j] for j in found.parameters)) == names


def test_the_right_exponents_get_the_right_amplitudes() -> None:
    problem = problem_of()
    assert problem.amplitudes is not None
    truth = problem.law.internal(TRUTH)
    start = truth.copy()
    start[0, :3] = 3.0, -2.0, 11.0
    found = solved(problem.law, problem.amplitudes, start, problem.x, problem.log_y)
    np.testing.assert_allclose(found, truth, atol=1e-4)


def test_a_term_that_no_run_wants_stays_small_but_not_gone() -> None:
    problem = problem_of()
    assert problem.amplitudes is not None
    start = problem.law.internal({**TRUTH, "alpha": 0.05})  # so flat that it takes the place of E
    found = solved(problem.law, problem.amplitudes, start, problem.x, problem.log_y)
    assert np.exp(found[0, 0]) / np.exp(problem.log_y).mean() == pytest.approx(2e-3, rel=0.5)
    assert np.isfinite(found).all()


def test_starts_that_overflow_stay_finite_and_harm_no_other() -> None:
    problem = problem_of()
    assert problem.amplitudes is not None
    start = np.repeat(problem.law.internal(TRUTH), 2, axis=0)
    start[1, 3] = -1e5
    found = solved(problem.law, problem.amplitudes, start, problem.x, problem.log_y)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], start[0], atol=1e-4)


def test_more_starts_find_the_optimum_than_without() -> None:
    problem = problem_of(noise=0.01)
    nothing = np.zeros(5)
    shares = []
    for one in (problem, replace(problem, amplitudes=None)):
        ends = one.solve(one.starts(64, np.random.default_rng(0)), curvature="explore", precision=nothing).objective
        shares.append(float((ends <= ends.min() * (1 + 1e-5)).mean()))
    assert shares[0] > 0.85
    assert shares[0] > shares[1] + 0.1


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(noise=0.01)
    starts = problem.starts(800, np.random.default_rng(0))  # three pieces
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(problem.solve(starts, curvature="explore", precision=np.zeros(5), max_iterations=5).theta)
    np.testing.assert_array_equal(*found)
