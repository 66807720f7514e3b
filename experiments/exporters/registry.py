"""The formats that exist. A new one is one file with an :class:`Exporter` and its line here."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from moe_search.experiments.exporters import hf
from moe_search.spaces.architecture import Architecture
from moe_search.spaces.errors import InvalidInputError


class Exporter(NamedTuple):
    """How one format is written."""

    title: str
    """The format's full name."""
    losses: Callable[[Architecture], list[str]]
    """What the format cannot express of an architecture, one short clause each; empty: everything is kept."""
    files: Callable[[Architecture], Mapping[str, str]]
    """The text files of the export by name, for an architecture without losses."""


EXPORTERS: Mapping[str, Exporter] = MappingProxyType(
    {"hf": Exporter(title="Hugging Face (Qwen3-MoE)", losses=hf.losses, files=hf.files)}
)


def names() -> tuple[str, ...]:
    """Return the names of the formats."""
    return tuple(EXPORTERS)


def get_exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Raises:
        InvalidInputError: no such format.
    """
    if name not in EXPORTERS:
        close = get_close_matches(name, EXPORTERS, n=1, cutoff=0.0)[0]
        raise InvalidInputError(f"there is no export format {name!r}", allowed=", ".join(EXPORTERS), fix=close)
    return EXPORTERS[name]


def export(name: str, architecture: Architecture, folder: Path, *, tokenizer: Path | None = None) -> list[Path]:
    """Write ``architecture`` in a format into ``folder`` and return the files, all or none.

    Args:
        name: the format.
        architecture: what is written.
        folder: created when missing; files of the same names are replaced.
        tokenizer: a ``tokenizer.json`` to put beside, where the format has a place for it.

    Raises:
        InvalidInputError: the format cannot express the architecture; the text lists everything that would be lost.
    """
    exporter = get_exporter(name)
    lost = exporter.losses(architecture)
    if lost:
        raise InvalidInputError(
            f"{exporter.title} cannot express this architecture; lost would be: {'; '.join(lost)}",
            fix="recommend with those knobs fixed in the space, or keep architecture.json",
        )
    contents = dict(exporter.files(architecture))
    if tokenizer is not None:
        contents["tokenizer.json"] = tokenizer.read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file_name, text in contents.items():
        partial = folder / f".{file_name}.partial"
        partial.write_text(text, encoding="utf-8")
        written.append((partial, folder / file_name))
    return [partial.replace(final) for partial, final in written]
