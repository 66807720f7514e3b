"""Synthetic text, and a small corpus of it, for the tests of this folder."""

import random
from pathlib import Path

import pytest

from moe_search.proxies.corpus import Corpus, CorpusConfig, prepare_corpus

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog;",
    "été",
    "naïve",
    "木",
    "x1",
    "2047",
    "rains",
)


def write_documents(folder: Path, count: int, *, seed: int, words: int = 120) -> str:
    """Write text files of random words of their own alphabet into a folder and return its path."""
    generator = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = generator.sample(WORDS, 12)
    for number in range(count):
        length = generator.randint(words // 2, words)
        text = " ".join(generator.choice(vocabulary) for _ in range(length))
        (folder / f"{number}.txt").write_text(f"{text}\n\n\n\n{text[::-1]}  \n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Three domains of 40 documents."""
    root = tmp_path_factory.mktemp("texts")
    return {
        name: (write_documents(root / name, 40, seed=seed),) for seed, name in enumerate(("alpha", "beta", "gamma"))
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of a session share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", params=["bytes", "bpe"])
def corpus(request: pytest.FixtureRequest, texts: dict[str, tuple[str, ...]], cache: Path) -> Corpus:
    """The three domains, with either tokenizer."""
    vocab_size = 257 if request.param == "bytes" else 400
    config = CorpusConfig(source=texts, tokenizer=request.param, vocab_size=vocab_size, tokenizer_sample_bytes=10_000)
    return prepare_corpus(config, cache, log=lambda _: None, threads=1)
