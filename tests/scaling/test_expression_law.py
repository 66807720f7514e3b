from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.expression_law import ExpressionLaw
from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError

CHINCHILLA = """
name: mine
equation: E + A * n_active**-alpha + B * tokens**-beta
parameters:
  E: {center: 1.8, positive: true, spread: 0.5}
  A: {center: 480, positive: true}
  B: {center: 2000, positive: true}
  alpha: {center: 0.34, lower: 0.001, upper: 2.5}
  beta: {center: 0.37, lower: 0.001, upper: 2.5}
"""
TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def some_runs(noise: float = 0.002) -> pl.DataFrame:
    rng, law = np.random.default_rng(0), get_law("chinchilla")
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(7, 10, 120), "tokens": 10 ** rng.uniform(9, 11.5, 120)})
    loss = law.predict(TRUTH, law.variables(frame)) * np.exp(noise * rng.normal(size=120))
    return frame.with_columns(loss=pl.Series(loss))


def one(equation: str, **parameters: str) -> ExpressionLaw:
    lines = [f"name: law\nequation: '{equation}'\nparameters:", *(f"  {k}: {v}" for k, v in parameters.items())]
    return ExpressionLaw("\n".join(lines), where="law.yaml")


def test_it_is_the_law_that_it_spells_out() -> None:
    law, own = ExpressionLaw(CHINCHILLA, where="mine.yaml"), get_law("chinchilla")
    theta = np.vstack([own.internal(TRUTH), own.internal(TRUTH) * 1.01])
    frame = some_runs()
    for got, wanted in zip(
        law.log_loss_and_jacobian(theta, law.variables(frame)),
        own.log_loss_and_jacobian(theta, own.variables(frame)),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)
    assert [p.variables for p in law.parameters] == [(), ("n_active",), ("tokens",), ("n_active",), ("tokens",)]


def test_its_fit_is_that_of_the_library_and_survives_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CHINCHILLA)
    frame = some_runs()
    mine = fit(get_law(str(tmp_path / "mine.yaml")), frame, resamples=50)
    own = fit(get_law("chinchilla"), frame, resamples=50)
    assert mine.objective == pytest.approx(own.objective, rel=1e-6)
    assert mine.starts_reached_best > 20
    (tmp_path / "fit.json").write_text(mine.to_file_text())
    (tmp_path / "mine.yaml").unlink()
    again = Fit.from_file(tmp_path / "fit.json")
    np.testing.assert_array_equal(again.predict(frame).draws, mine.predict(frame).draws)
    held = get_law("mine:alpha=0.34", CHINCHILLA)
    assert held.names == ("E", "A", "B", "beta")


EQUATIONS = [
    "E + exp(a * log(n_active)) * sqrt(tokens) / (1 + log2(tokens))**b",
    "E + (A / n_active)**a - b * log10(tokens) / 100",
    "-(-E) + A**(a / b) * +n_active**(-a * log(tokens))",
    "E * (A / n_active**a + tokens**-b)**(a / b)",
]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_derivatives_are_those_of_the_equation(equation: str) -> None:
    positive, free = "{center: 1.4, positive: true}", "{center: 0.3, lower: -2, upper: 2}"
    parameters = {"E": positive, "A": positive, "a": free, "b": free}
    law = one(equation, **{name: text for name, text in parameters.items() if name in equation})
    x = {"n_active": np.geomspace(2, 9, 7), "tokens": np.linspace(3, 8, 7)}
    x = {name: x[name] for name in law.columns}
    theta = law.internal({p.name: p.center for p in law.parameters}) + np.array([[0.0], [0.1], [-0.05]])
    value, jacobian = law.log_loss_and_jacobian(theta, x)
    names = {**{n: x[n] for n in x}, "exp": np.exp, "log": np.log, "log2": np.log2, "log10": np.log10, "sqrt": np.sqrt}
    for row, point in enumerate(theta):
        natural = {name: float(v[0]) for name, v in law.natural(point[None, :]).items()}
        wanted = eval(equation, {}, {**names, **natural})  # the reference, on equations of this file
        np.testing.assert_allclose(value[row], np.log(wanted), rtol=1e-12)
    for j in range(len(law.names)):
        step = np.zeros_like(theta)
        step[:, j] = 1e-6
        numeric = (law.log_loss(theta + step, x) - law.log_loss(theta - step, x)) / 2e-6
        np.testing.assert_allclose(jacobian[:, j], numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("equation", "named"),
    [
        ("__import__('os').system('true')", "__import__"),
        ("n_active.real + E", "n_active.real"),
        ("E + (lambda: 1)()", "lambda"),
        ("E + [tokens][0]", "[tokens][0]"),
        ("E if tokens > 1 else 2", "if"),
        ("E + sum(tokens)", "sum(tokens)"),
        ("E + exp(tokens, tokens)", "exp(tokens, tokens)"),
        ("E + exp(*tokens)", "*tokens"),
        ("E + 'tokens'", "'tokens'"),
        ("E + True * tokens", "True"),
        ("E + 1j * tokens", "1j"),
        ("(E := 3) + tokens", "E := 3"),
        ("E + tokens // 2", "tokens // 2"),
        ("f'{E}'", "f'"),
    ],
)
def test_nothing_but_arithmetic_gets_in(equation: str, named: str) -> None:
    text = f"name: law\nequation: {equation!r}\nparameters:\n  E: {{center: 1, positive: true}}\n"
    with pytest.raises(InvalidInputError, match=r"law.yaml, equation: .* is not allowed in an equation") as caught:
        ExpressionLaw(text, where="law.yaml")
    assert named in caught.value.what


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: [", "this is not YAML"),
        ("just a text", "the file: input should be a valid dictionary"),
        ("name: law\nequation: E + tokens\n", "parameters: field required"),
        ("name: law\nequation: E +\nparameters: {E: {center: 1}}", "'E \\+' is not an expression"),
        (
            "name: law\nequation: E + tokens\nparameters: {E: {center: 1}, F: {center: 1}}",
            "does not use the parameter 'F'",
        ),
        ("name: law\nequation: E + 1\nparameters: {E: {center: 1}}", "reads no column"),
        ("name: law\nequation: E + tokens\nparameters: {E: {center: -1, positive: true}}", r"center -1 with bounds"),
        ("name: law\nequation: E + tokens\nparameters: {E: {centre: 1}}", r"parameters.E.center: field required"),
        ("name: law\nequation: E + tokens\nparameters: {E: {center: high}}", r"parameters.E.center: .*number"),
        ("name: a b\nequation: E + tokens\nparameters: {E: {center: 1}}", "name: string should match"),
        ("name: law\nequation: " + "1+" * 1500 + "E\nparameters: {E: {center: 1}}", "at most 2000 characters"),
        (
            "name: law\nequation: " + "(" * 900 + "E*tokens" + ")" * 900 + "\nparameters: {E: {center: 1}}",
            "not an expression",
        ),
    ],
)
def test_a_file_that_states_no_law_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^law.yaml.*{sentence}"):
        ExpressionLaw(text, where="law.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read as a law"):
        get_law(str(tmp_path / "none.yaml"))


def test_a_column_that_is_not_there_or_not_positive() -> None:
    law = ExpressionLaw(CHINCHILLA, where="mine.yaml")
    with pytest.raises(InvalidInputError, match="there is no column 'tokens'"):
        fit(law, some_runs().drop("tokens"))
    with pytest.raises(InvalidInputError, match="column 'tokens' holds 0"):
        fit(law, some_runs().with_columns(tokens=pl.lit(0.0)))
