import numpy as np
import polars as pl
import pytest

from moe_search.scaling.columns import domain_names, mixture_weights, optional, positive, relative_weights
from moe_search.spaces.errors import InvalidInputError


def test_the_first_present_column_is_taken() -> None:
    frame = pl.DataFrame({"b": [2, 3], "c": [5, 6]})
    np.testing.assert_array_equal(positive(frame, "a", "b", "c", law="x"), [2.0, 3.0])
    np.testing.assert_array_equal(optional(frame, "z", default=7.0, law="x"), [7.0, 7.0])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), None])
def test_values_without_a_logarithm_are_refused(value: float | None) -> None:
    with pytest.raises(InvalidInputError, match=r"law x: column 'a' holds .* in 1 of 2 rows"):
        optional(pl.DataFrame({"a": [1.0, value]}), "a", default=1.0, law="x")


def test_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r'"many" is not a number \(row 1\); .*nearest fix: --map'):
        positive(pl.DataFrame({"a": ["many"]}), "a", law="x")


def test_uniform_weights_are_one_and_an_unknown_domain_has_none() -> None:
    frame = pl.DataFrame({"weight/a": [0.5, 1.0], "weight/b": [0.5, None]})
    np.testing.assert_array_equal(relative_weights(frame), [[1.0, 1.0], [2.0, 0.0]])
    np.testing.assert_array_equal(relative_weights(pl.DataFrame({"loss": [1.0]})), [[1.0]])
    with pytest.raises(InvalidInputError, match=r"1 of 1 runs are not a mixture: the first sums to 1.4.*/ whole"):
        relative_weights(pl.DataFrame({"weight/a": [0.5], "weight/b": [0.9]}))
    with pytest.raises(InvalidInputError, match=r"sums to 100; .*if they are percent"):
        relative_weights(pl.DataFrame({"weight/a": [60.0], "weight/b": [40.0]}))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("GTok", "--map 'tokens=GTok'"),
        ("train tokens", "--map 'tokens=\"train tokens\"'"),
        ("D", "--map 'tokens=D'"),
        ("depth", "--map 'tokens=...'"),
        ("batch_tokens", "--map 'tokens=...'"),
    ],
)
def test_what_a_column_may_be_called_elsewhere(there: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match="there is no column 'tokens'") as raised:
        positive(pl.DataFrame({"seed": [1], there: [1.0]}), "tokens", law="x")
    assert raised.value.fix == said


def test_of_many_columns_some_are_shown() -> None:
    with pytest.raises(InvalidInputError, match="'c19' and 5 more"):
        positive(pl.DataFrame({f"c{number}": [1.0] for number in range(25)}), "tokens", law="x")


def test_a_domain_without_a_column_has_no_weight() -> None:
    frame = pl.DataFrame({"weight/b": [1.0, 0.25], "weight/a": [0.0, 0.75]})
    assert domain_names(frame) == ("a", "b")
    np.testing.assert_array_equal(mixture_weights(frame, ("a", "b", "c")), [[0.0, 1.0, 0.0], [0.75, 0.25, 0.0]])
    with pytest.raises(InvalidInputError, match="not a mixture"):
        mixture_weights(frame, ("a",))
