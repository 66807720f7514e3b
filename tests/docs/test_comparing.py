"""The page on comparing designs prints what it shows."""

from collections.abc import Callable


def test_the_python_of_the_page(execute: Callable[[str], None]) -> None:
    execute("how-to/compare-designs.md")
