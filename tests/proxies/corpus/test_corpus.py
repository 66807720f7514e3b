import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from moe_search.proxies.corpus import Corpus, CorpusConfig, open_corpus, prepare_corpus
from moe_search.proxies.corpus.documents import clean
from moe_search.spaces.errors import InvalidInputError


def source_text(corpus: Corpus, domain: str, name: str) -> str:
    """The clean text of a document, read again from its file."""
    folder = corpus.manifest.config.source[domain][0]
    return clean((Path(folder) / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_text_is_the_documents_in_order_between_end_tokens(corpus: Corpus, split: str) -> None:
    end = corpus.manifest.end_of_document
    for domain in corpus.domains:
        names = json.loads((corpus.root / domain / "held_out.json").read_text())[split]
        held_out = corpus.held_out(domain, split)
        texts = [source_text(corpus, domain, name) for name in names]
        borders = np.flatnonzero(held_out.tokens == end)
        assert borders[0] == 0
        assert borders[-1] == len(held_out.tokens) - 1
        np.testing.assert_array_equal(held_out.document_starts, borders[:-1] + 1)
        pieces = [corpus.tokenizer.decode(piece.tolist()) for piece in np.split(held_out.tokens, borders)[1:-1]]
        assert pieces == texts
        assert held_out.n_bytes == sum(len(text.encode()) for text in texts)


def test_splits_share_no_document(corpus: Corpus) -> None:
    end = corpus.manifest.end_of_document
    for domain in corpus.domains:
        shards = [corpus.train_tokens(domain), *(corpus.held_out(domain, split).tokens for split in ("val", "test"))]
        seen = [piece.tobytes() for shard in shards for piece in np.split(shard, np.flatnonzero(shard == end))[1:-1]]
        assert len(set(seen)) == len(seen) == corpus.manifest.row(domain).documents.total


def test_fewer_held_out_tokens_are_whole_documents_with_their_bytes(corpus: Corpus) -> None:
    whole = corpus.held_out("alpha")
    two = int(np.flatnonzero(whole.tokens == corpus.manifest.end_of_document)[2])
    for max_tokens in (two, two + 1):
        part = corpus.held_out("alpha", max_tokens=max_tokens)
        assert part.n_targets == two
        assert len(part.document_starts) == 2
        assert part.n_bytes == len(corpus.tokenizer.decode(part.tokens.tolist()).encode())
    assert len(corpus.held_out("alpha", max_tokens=two - 1).document_starts) == 1
    assert corpus.held_out("alpha", max_tokens=10**9).n_bytes == whole.n_bytes


def test_a_first_document_that_is_too_long_is_cut_and_its_bytes_follow(corpus: Corpus) -> None:
    part = corpus.held_out("beta", max_tokens=17)
    assert part.n_targets == 17
    assert part.n_bytes == corpus.token_bytes[corpus.held_out("beta").tokens[1:18]].sum()
    with pytest.raises(InvalidInputError, match="max_tokens is 0"):
        corpus.held_out("beta", max_tokens=0)


def test_bits_per_byte_of_one_bit_a_byte_is_one(corpus: Corpus) -> None:
    held_out = corpus.held_out("alpha")
    assert held_out.bits_per_byte(math.log(2) * held_out.n_bytes) == pytest.approx(1)


def test_the_unigram_bound_is_the_formula(corpus: Corpus) -> None:
    probability = np.zeros(corpus.vocab_size)
    for domain in corpus.domains:
        tokens = corpus.train_tokens(domain)
        probability += (np.bincount(tokens, minlength=corpus.vocab_size) + 1) / (len(tokens) + corpus.vocab_size)
    probability /= len(corpus.domains)
    for domain in corpus.domains:
        held_out = corpus.held_out(domain)
        nats = -np.log(probability[held_out.tokens[1:]])
        assert corpus.unigram_loss(domain) == pytest.approx(nats.mean())
        assert corpus.unigram_bpb(domain) == pytest.approx(held_out.bits_per_byte(nats.sum()))
        assert corpus.unigram_loss(domain) < math.log(corpus.vocab_size)
    first = corpus.held_out("alpha", max_tokens=50)
    assert corpus.unigram_loss("alpha", max_tokens=50) == pytest.approx(-np.log(probability[first.tokens[1:]]).mean())


def test_unknown_domains_are_refused_with_the_list(corpus: Corpus) -> None:
    with pytest.raises(InvalidInputError, match=r"no domain 'delta'; allowed: alpha, beta, gamma"):
        corpus.train_tokens("delta")


def test_train_tokens_are_mapped_not_read(corpus: Corpus) -> None:
    tokens = corpus.train_tokens("alpha")
    assert isinstance(tokens, np.memmap)
    assert (tokens.dtype, tokens.max() < corpus.vocab_size) == (np.uint16, True)
    assert len(pickle.dumps(corpus)) < 50_000


def test_the_manifest_describes_the_files(corpus: Corpus) -> None:
    for row in corpus.manifest.domains:
        assert row.tokens.train == len(corpus.train_tokens(row.domain))
        assert row.tokens.val == len(corpus.held_out(row.domain).tokens)
        assert row.n_bytes.test == corpus.held_out(row.domain, "test").n_bytes
        assert 0.04 <= row.n_bytes.val / row.n_bytes.total < 0.12
        assert 0 < row.gzip_bits_per_byte < 8
        assert row.bytes_per_token > 0.9


def test_opening_something_else_is_refused(tmp_path: Path, texts: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidInputError, match="holds no prepared corpus"):
        open_corpus(tmp_path)
    corpus = prepare_corpus(CorpusConfig(source=texts, tokenizer="bytes"), tmp_path, log=lambda _: None)
    manifest = corpus.root / "manifest.json"
    sound = manifest.read_text()
    manifest.write_text(sound.replace('"format": 1', '"format": 0'))
    with pytest.raises(InvalidInputError, match="corpus of format 0"):
        open_corpus(corpus.root)
    manifest.write_text(sound)
    shard = corpus.root / "beta" / "train.u16"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(InvalidInputError, match=r"train\.u16 is not the \d+ bytes that the manifest says"):
        open_corpus(corpus.root)
