"""The domains of the default corpus: one file a source, found by being here."""

import importlib
import pkgutil
from functools import cache

from moe_search.proxies.corpus.source import Source


@cache
def default_sources() -> dict[str, Source]:
    """Return the sources of the default corpus by domain, sorted."""
    sources: list[Source] = []
    for module in pkgutil.iter_modules(__path__):
        sources += importlib.import_module(f"{__name__}.{module.name}").SOURCES
    by_domain = {source.domain: source for source in sorted(sources, key=lambda source: source.domain)}
    if len(by_domain) < len(sources):
        raise AssertionError("two sources claim one domain")
    return by_domain
