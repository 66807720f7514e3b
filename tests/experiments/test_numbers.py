import pytest

from moe_search.experiments import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(30.53e9, "30.5B"), (251_000, "251K"), (999_600, "1M"), (1.04e12, "1.04T"), (12, "12")],
)
def test_count(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59.7, "1 min"), (460, "7 min 40 s"), (3600, "1 h"), (90_000, "1 d 1 h"), (42, "42 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0.125, "1/8"), (0.5, "1/2"), (0.3, "30%"), (1.0, "100%")])
def test_ratio(value: float, text: str) -> None:
    assert numbers.ratio(value) == text


def test_size() -> None:
    assert numbers.size(61.2e9) == "61.2 GB"
    assert numbers.size(12) == "12 B"
