"""Numbers written for people: suffixes, rounding at the edges, signs, missing values."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.scaling.report import numbers
from moe_search.scaling.report.numbers import MINUS, NO_VALUE, THIN


def spaced(text: str) -> str:
    return text.replace(THIN, " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (9_999, "9 999"),
        (64_000, "64 k"),
        (420_000, "0.42 M"),
        (999_999, "1 M"),
        (1_234_567, "1.23 M"),
        (999_999_600, "1 B"),
        (37e9, "37 B"),
        (1.02e12, "1.02 T"),
        (15e15, "15 P"),
        (-2_000_000, f"{MINUS}2 M"),
    ],
)
def test_quantity(value: float, text: str) -> None:
    assert spaced(numbers.quantity(value)) == text


SUFFIX = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15}


@given(st.floats(min_value=1, max_value=1e18, allow_nan=False))
def test_quantity_keeps_three_digits(value: float) -> None:
    text = spaced(numbers.quantity(value))
    match = re.fullmatch(r"([\d ]+(?:\.\d+)?)(?: ([kMBTP]))?", text)
    assert match, text
    back = float(match[1].replace(" ", "")) * SUFFIX[match[2] or ""]
    assert math.isclose(back, value, rel_tol=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.3e21, "1.3e21"), (9.99e20, "1e21"), (0.5, "0.5"), (2e-5, "2e-5"), (0, "0"), (1234, "1 234")],
)
def test_power(value: float, text: str) -> None:
    assert spaced(numbers.power(value)) == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_power_keeps_two_digits(value: float) -> None:
    assert math.isclose(float(numbers.power(value).replace(THIN, "")), value, rel_tol=0.051)


def test_signs_and_zero() -> None:
    assert numbers.signed(0.0123) == "+0.012"
    assert numbers.signed(-0.0123) == f"{MINUS}0.012"
    assert numbers.signed(-0.0001) == "0.000"
    assert numbers.fixed(-1.5, 2) == f"{MINUS}1.50"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (59.96, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (268_000, "3.1 days")],
)
def test_duration(seconds: float, text: str) -> None:
    assert spaced(numbers.duration(seconds)) == text


@pytest.mark.parametrize(
    "write",
    [numbers.quantity, numbers.power, numbers.number, numbers.fixed, numbers.signed, numbers.percent, numbers.duration],
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_missing_is_a_dash(write: object, value: float | None) -> None:
    assert callable(write)
    assert write(value) == NO_VALUE


def test_interval_does_not_use_a_dash() -> None:
    assert numbers.interval(-0.1, 0.2, 1) == f"{MINUS}0.1 to 0.2"
    assert numbers.interval(None, 0.2) == NO_VALUE


def test_lists_and_counts() -> None:
    assert numbers.listed(["a"]) == "a"
    assert numbers.listed(["a", "b", "c"]) == "a, b and c"
    assert numbers.listed(list("abcdefgh"), limit=4) == "a, b, c and 5 more"
    assert numbers.listed([]) == "none"
    assert numbers.count(1, "run") == "1 run"
    assert spaced(numbers.count(1200, "run")) == "1 200 runs"


@given(st.floats(min_value=1e3, max_value=1e12), st.floats(min_value=1.5, max_value=1e4))
def test_ticks_lie_inside_and_are_few(low: float, factor: float) -> None:
    positions, labels = numbers.ticks(low, low * factor)
    assert len(positions) == len(labels) <= 9
    assert all(low * 0.99 <= position <= low * factor * 1.01 for position in positions)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("equal training compute, 1e+18 FLOPs", "Equal training compute, 1e18 FLOPs."),
        ("train_flops > 30818304000000.0", "Train_flops > 3.1e13."),
        ("train_flops > 3.2204823014e+21", "Train_flops > 3.2e21."),
        ("known to -14 % / +11 % (95 %)", f"Known to {MINUS}14{THIN}% / +11{THIN}% (95{THIN}%)."),
        ("law joint_moe2 at N = 1e6, r2d2 and 1.5 of 8 GB!", f"Law joint_moe2 at N = 1e6, r2d2 and 1.5 of 8{THIN}GB!"),
        ("", ""),
    ],
)
def test_sentences_from_elsewhere_are_tidied(text: str, tidied: str) -> None:
    assert numbers.sentence(text) == tidied


def test_other_peoples_numbers_are_shortened_only_where_they_are_long() -> None:
    assert numbers.tidy("objective 8.5688e-05, above 3.1533264e+21") == "objective 8.5688e-5, above 3.2e21"
    assert numbers.tidy("train_flops > 5.1e+20") == "train_flops > 5.1e20"
