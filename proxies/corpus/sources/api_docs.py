"""``api_docs``: the reference documentation of 430 web services, from their machine-readable descriptions."""

import gzip
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

WHEEL = "botocore"
SHORTEST_ENTRY = 120
"""Characters, markup included; shorter entries ("The name of the resource.") are stock sentences."""
LARGEST_DOCUMENT = 48_000
"""Bytes of one service: a few services have megabytes of near-identical entries."""
_TAG = re.compile(r"<[^>]+>")
_DESCRIPTION = re.compile(r"botocore/data/([^/]+)/([^/]+)/service-2\.json\.gz")


def entries(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, HTML documentation) of a service, its operations, its types and their members."""
    yield service["metadata"]["serviceFullName"], service.get("documentation", "")
    for name, operation in service["operations"].items():
        yield name, operation.get("documentation", "")
    for name, shape in service["shapes"].items():
        yield name, shape.get("documentation", "")
        for member, description in shape.get("members", {}).items():
            yield member, description.get("documentation", "")


def read(wheels: Mapping[str, ZipFile]) -> Iterator[tuple[str, str]]:
    """Yield one document a service (its latest version): a line an entry, no entry twice in the whole domain."""
    wheel = wheels[WHEEL]
    matches = filter(None, map(_DESCRIPTION.fullmatch, sorted(wheel.namelist())))
    latest = {match[1]: match[0] for match in matches}  # versions are dates, so the last one wins
    seen: set[str] = set()
    for name, path in latest.items():
        lines: list[str] = []
        size = 0
        for entry, markup in entries(json.loads(gzip.decompress(wheel.read(path)))):
            if len(markup) < SHORTEST_ENTRY or size >= LARGEST_DOCUMENT:
                continue
            text = " ".join(html.unescape(_TAG.sub(" ", markup)).split())
            line = f"{entry}: {text}"
            if text in seen or size + len(line.encode()) >= LARGEST_DOCUMENT:
                continue
            seen.add(text)
            lines.append(line)
            size += len(line.encode()) + 1
        yield name, "\n".join(lines)


SOURCES = (
    Source(
        domain="api_docs",
        wheels=(WHEEL,),
        title="reference documentation of the web services that botocore describes",
        licence="Apache-2.0",
        attribution="Amazon Web Services, Inc. and the botocore contributors",
        read=read,
        min_bytes=300,
    ),
)
