import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.proxies.corpus.tokenizer import (
    END_OF_DOCUMENT,
    BytePairTokenizer,
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_hash,
    tokenizer_threads,
)

SAMPLE = ["the quick brown fox, 2047 times; été à la plage. " * 5, "def f(x):\n    return x + 1\n" * 5]
BPE = BytePairTokenizer.train(SAMPLE, 320)
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from([END_OF_DOCUMENT, "<|", "fox", "12", " ", "\n"])).map("".join))


@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizer()], ids=["bpe", "bytes"])
@given(text=TEXTS)
def test_no_text_is_lost_and_every_byte_is_counted(tokenizer: Tokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens.tolist()) == text
    assert tokenizer.token_bytes(400)[tokens].sum() == len(text.encode())
    assert tokenizer.end_of_document not in tokens


def test_text_that_spells_the_end_of_document_is_text() -> None:
    assert len(BPE.encode([END_OF_DOCUMENT])[0]) > 1


def test_digits_are_tokens_of_their_own() -> None:
    (tokens,) = BPE.encode(["2047"])
    assert [BPE.decode([token]) for token in tokens.tolist()] == list("2047")


def test_end_of_document_has_no_bytes_and_no_text() -> None:
    for tokenizer in (BPE, ByteTokenizer()):
        assert tokenizer.token_bytes(400)[tokenizer.end_of_document] == 0
        assert tokenizer.decode([tokenizer.end_of_document]) == ""


def test_json_round_trip_keeps_tokens_and_hash() -> None:
    for tokenizer in (BPE, ByteTokenizer()):
        again = load_tokenizer(tokenizer.to_json())
        np.testing.assert_array_equal(again.encode(SAMPLE)[0], tokenizer.encode(SAMPLE)[0])
        assert tokenizer_hash(again.to_json()) == tokenizer_hash(tokenizer.to_json())


def test_training_is_deterministic() -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(2, 6))) for _ in range(300)]
    text = [" ".join(generator.choices(words, k=500)) for _ in range(50)]
    assert BytePairTokenizer.train(text, 600).to_json() == BytePairTokenizer.train(iter(text), 600).to_json()


def test_thread_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")
    with tokenizer_threads(2):
        assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"]) == ("true", "2")
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert os.environ["RAYON_NUM_THREADS"] == "7"
