"""``code``: the Python source of sympy, networkx and Django."""

import re
from collections.abc import Iterator, Mapping
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

_NOT_PROSE = re.compile(r"(^|/)(tests?|testing|locale|migrations|benchmarks?)/|(^|/)(test_|conftest)")
"""Tests, translations, migrations and benchmarks: repetitive, or tables in the form of code."""
LARGEST_DIGIT_SHARE = 0.1
"""More digits than this among the characters is a table of numbers (polynomial constants, parser tables)."""


def read(wheels: Mapping[str, ZipFile]) -> Iterator[tuple[str, str]]:
    """Yield every Python file that is neither a test nor a table."""
    for wheel in wheels.values():
        for path in wheel.namelist():
            if path.endswith(".py") and not _NOT_PROSE.search(path):
                text = wheel.read(path).decode()
                if sum(map(text.count, "0123456789")) <= LARGEST_DIGIT_SHARE * len(text):
                    yield path, text


SOURCES = (
    Source(
        domain="code",
        wheels=("sympy", "networkx", "django"),
        title="Python source of sympy, networkx and Django",
        licence="BSD-3-Clause",
        attribution="the SymPy development team; the NetworkX developers; the Django Software Foundation and "
        "individual contributors",
        read=read,
        min_bytes=300,
        max_bytes=12_050_000,
    ),
)
