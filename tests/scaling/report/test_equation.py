"""Equations: read from a law's text, typeset with letters and with numbers, never with markup of somebody else's."""

import re
import xml.etree.ElementTree as ET

import pytest

from moe_search.scaling.laws import get_law, law_names
from moe_search.scaling.report.equation import short, symbol, typeset
from moe_search.scaling.report.notation import NotationError, read_equations, substitute


def words(markup: object) -> str:
    """The visible text, without room between the pieces."""
    return "".join("".join(ET.fromstring(f"<r>{markup}</r>").itertext()).split())


@pytest.mark.parametrize("name", law_names())
def test_every_law_of_the_library_is_typeset_with_all_its_parameters(name: str) -> None:
    law = get_law(name)
    letters = typeset(law.equation)
    assert letters is not None, law.equation
    numbers = typeset(law.equation, {parameter.name: 0.7 for parameter in law.parameters})
    if numbers is None:
        assert all(f"{name}_" in law.equation for name in law.names), "what stands for one domain of many has no number"
    else:
        assert words(letters) != words(numbers)


def test_letters_and_numbers_of_chinchilla() -> None:
    law = get_law("chinchilla")
    assert words(typeset(law.equation)) == "L=E+ANα+BDβ"
    values = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
    assert words(typeset(law.equation, values)) == "L=1.817+477.8N0.3473+2143D0.3672"


def test_signs_of_numbers_are_those_of_the_terms() -> None:
    values = {"a": -0.0835, "b": 0.5, "c": -2e-7}
    assert words(typeset("y = a N + b N^-c - a", values)) == "y=−0.08350N+0.5000N2.000×10−7+0.08350"
    assert words(typeset("y = N a", values)) == "y=N(−0.08350)"
    assert words(typeset("y = 2 b", values)) == "y=2×0.5000"
    assert words(typeset("y = a/N - c/D", values)) == "y=−0.08350N+2.000×10−7D"


def test_what_is_defined_keeps_its_letter_and_functions_their_parentheses() -> None:
    text = "L = u + A, A = K^a, u, v = p(a), p(2), where p(k) = k^2"
    lines = re.findall(r"<div.*?</div>", str(typeset(text, {"A": 3.0, "K": 5.0, "a": 2.0})))
    assert [words(line) for line in lines] == [
        "L=u+3.000",
        "A=5.0002.000",
        "u,v=p(2.000),p(2)",
        "p(k)=k2",
    ]


def test_subscripts_primes_and_sums() -> None:
    markup = str(typeset("D' = sum_i C_i h_i^g_i + log10 N_total + sqrt(x)"))
    for part in ("<munder><mo>∑</mo><mi>i</mi></munder>", "<msub><mi>C</mi><mi>i</mi></msub>", "<mo>′</mo>", "<msqrt>"):
        assert part in markup, part
    assert "<mi>total</mi>" in markup


@pytest.mark.parametrize("text", ["", "L = E +", "L = (E", "L = E % 2", "L = ^2"])
def test_what_is_no_equation_is_left_as_text(text: str) -> None:
    with pytest.raises(NotationError):
        read_equations(text)
    assert typeset(text) is None


def test_names_without_a_value_stay() -> None:
    tree = read_equations("E + A N")[0].sides[0]
    assert substitute(tree, {}) == tree
    assert typeset("L = E", {"B": 1.0}) is None


def test_markup_in_a_name_cannot_get_through() -> None:
    assert "<b>" not in str(typeset("L = <b>E</b>"))
    assert "<img" not in str(symbol("<img src=x>"))


def test_short_names_for_figures() -> None:
    assert [short(name) for name in ("alpha", "alpha_N", "E_start")] == ["α", "α<sub>N</sub>", "E<sub>start</sub>"]
    assert "<" not in short("<b>")
