"""Text to tokens: byte-level BPE trained on the corpus, or the bytes themselves.

Both are lossless and know how many bytes each token stands for, so that bits per byte are exact wherever a text is
cut. The BPE splits digits singly and has the 256 bytes as its alphabet: no text is out of its vocabulary.

References:
    Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016 (BPE);
    Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2 (byte level).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from moe_search.proxies.corpus.config import BYTES_VOCABULARY

Tokens = NDArray[np.uint16]
END_OF_DOCUMENT = "<|end_of_document|>"


class Tokenizer(Protocol):
    """What the corpus needs of a tokenizer."""

    end_of_document: int

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, without end-of-document tokens."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; end-of-document tokens become nothing."""

    def token_bytes(self, vocab_size: int) -> NDArray[np.int64]:
        """Return how many bytes of text each token id stands for: (vocab_size,), 0 for ids that are no text."""

    def to_json(self) -> str:
        """Return what ``load_tokenizer`` reads."""


class ByteTokenizer:
    """The UTF-8 bytes, and one id more for the end of a document."""

    end_of_document = BYTES_VOCABULARY - 1

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """See ``Tokenizer``."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint16) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        return bytes(token for token in tokens if token != self.end_of_document).decode(errors="replace")

    def token_bytes(self, vocab_size: int) -> NDArray[np.int64]:
        """See ``Tokenizer``."""
        return (np.arange(vocab_size) < self.end_of_document).astype(np.int64)

    def to_json(self) -> str:
        """See ``Tokenizer``."""
        return json.dumps({"type": "bytes", "vocab_size": BYTES_VOCABULARY})


class BytePairTokenizer:
    """Byte-level BPE of the ``tokenizers`` library; its JSON is what Hugging Face's fast tokenizers load."""

    def __init__(self, bpe: tokenizers.Tokenizer) -> None:
        self._bpe = bpe
        # A text that spells the end-of-document token is text: without this it would be cut there, with no bytes.
        self._bpe.encode_special_tokens = True
        self.end_of_document: int = bpe.get_vocab()[END_OF_DOCUMENT]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Learn up to ``vocab_size`` tokens (fewer where the text has no more pairs to merge)."""
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        bpe.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_DOCUMENT],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """See ``Tokenizer``."""
        return [np.array(encoding.ids, np.uint16) for encoding in self._bpe.encode_batch_fast(list(texts))]

    def decode(self, tokens: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        return str(self._bpe.decode([int(token) for token in tokens], skip_special_tokens=True))

    def token_bytes(self, vocab_size: int) -> NDArray[np.int64]:
        """See ``Tokenizer``. The byte-level alphabet has one character a byte."""
        lengths = np.zeros(vocab_size, np.int64)
        for token, index in self._bpe.get_vocab().items():
            lengths[index] = len(token)
        lengths[self.end_of_document] = 0
        return lengths

    def to_json(self) -> str:
        """See ``Tokenizer``."""
        return str(self._bpe.to_str())


def load_tokenizer(text: str) -> Tokenizer:
    """Return the tokenizer that ``to_json`` gave ``text`` of."""
    if json.loads(text).get("type") == "bytes":
        return ByteTokenizer()
    return BytePairTokenizer(tokenizers.Tokenizer.from_str(text))


def tokenizer_hash(text: str) -> str:
    """Return 16 hex digits of a tokenizer's JSON."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@contextmanager
def tokenizer_threads(threads: int) -> Iterator[None]:
    """Let ``tokenizers`` use this many threads; its thread pool starts at the first use in a process and then stays."""
    wanted = {"TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false", "RAYON_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
