"""A prepared corpus: memory-mapped tokens, held-out text with its bytes, the unigram bound."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from moe_search.proxies.corpus.documents import SPLITS, Split
from moe_search.proxies.corpus.manifest import FORMAT, Manifest
from moe_search.proxies.corpus.tokenizer import Tokenizer, Tokens, load_tokenizer
from moe_search.spaces.errors import InvalidInputError


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents of one domain.

    ``tokens[0]`` is an end-of-document token: context for the first document, not scored. The text is scored when every
    one of ``tokens[1:]`` is predicted once; then the sum of their nats over ``ln 2 * n_bytes`` is bits per byte.
    """

    domain: str
    tokens: Tokens
    """(n_targets + 1,)"""
    n_bytes: int
    """Bytes of exactly the text that ``tokens[1:]`` stands for."""
    document_starts: NDArray[np.int64]
    """(documents,) positions of the first tokens of the documents."""

    @property
    def n_targets(self) -> int:
        """Tokens to score, end-of-document tokens included."""
        return len(self.tokens) - 1

    def bits_per_byte(self, nats: float) -> float:
        """Return bits per byte of a *total* of nats over ``tokens[1:]``."""
        return nats / math.log(2) / self.n_bytes


class Corpus:
    """A folder that ``prepare_corpus`` wrote. Holds paths and the manifest; arrays are mapped when asked for."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self.domains: tuple[str, ...] = tuple(row.domain for row in manifest.domains)
        """Sorted; a domain's index in batches is its place in here."""

    def __repr__(self) -> str:
        return f"Corpus({str(self.root)!r}, domains={self.domains}, data_hash={self.data_hash!r})"

    @property
    def data_hash(self) -> str:
        """Identifies domains, tokens and tokenizer."""
        return self.manifest.data_hash

    @property
    def tokenizer_hash(self) -> str:
        """Identifies the tokenizer."""
        return self.manifest.tokenizer_hash

    @property
    def vocab_size(self) -> int:
        """Token ids are below this; the model's embedding has this many rows."""
        return self.manifest.vocab_size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the shards."""
        return load_tokenizer((self.root / "tokenizer.json").read_text(encoding="utf-8"))

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes of text that each token id stands for: (vocab_size,)."""
        return self.tokenizer.token_bytes(self.vocab_size)

    def train_tokens(self, domain: str) -> Tokens:
        """Return the memory-mapped training tokens of a domain: (tokens,), documents in a fixed random order."""
        return self._shard(domain, "train")

    def held_out(self, domain: str, split: Split = "val", max_tokens: int | None = None) -> HeldOut:
        """Return the first held-out documents of a domain.

        Args:
            domain: one of ``domains``.
            split: ``val`` for everything that is searched or fitted; ``test`` for a final number.
            max_tokens: as many whole documents as have at most this many tokens to score; if already the first one has
                more, the beginning of that one. None takes the whole split.
        """
        tokens = self._shard(domain, split)
        starts: NDArray[np.int64] = np.load(self.root / domain / f"{split}.offsets.npy")
        if max_tokens is not None and max_tokens < len(tokens) - 1:
            if max_tokens < 1:
                raise InvalidInputError(f"max_tokens is {max_tokens}", allowed="at least 1", fix="1")
            whole = int(np.searchsorted(starts, max_tokens + 1, side="right")) - 1  # starts[n] is the end of document n
            tokens = tokens[: starts[whole] if whole else max_tokens + 1]
            starts = starts[: max(whole, 1) + 1]
        taken = np.array(tokens)
        return HeldOut(domain, taken, int(self.token_bytes[taken].sum()), starts[:-1])

    def unigram_loss(self, domain: str, split: Split = "val", max_tokens: int | None = None) -> float:
        """Return the nats a token of ``held_out`` text under the unigram bound: what no trained model may lose to.

        The bound is the uniform mixture of the domains' train unigram distributions, each smoothed by adding one.
        """
        held_out = self.held_out(domain, split, max_tokens)
        return float(-np.log(self._unigram[held_out.tokens[1:]]).mean())

    def unigram_bpb(self, domain: str, split: Split = "val", max_tokens: int | None = None) -> float:
        """Return the unigram bound in bits a byte."""
        held_out = self.held_out(domain, split, max_tokens)
        return held_out.bits_per_byte(self.unigram_loss(domain, split, max_tokens) * held_out.n_targets)

    @cached_property
    def _unigram(self) -> NDArray[np.float64]:
        """Probability of each token id: (vocab_size,)."""
        counts = np.stack([np.load(self.root / domain / "train.counts.npy") + 1.0 for domain in self.domains])
        probability: NDArray[np.float64] = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
        return probability

    def _shard(self, domain: str, split: Split) -> Tokens:
        if domain not in self.domains:
            raise InvalidInputError(f"the corpus has no domain {domain!r}", allowed=", ".join(self.domains))
        return np.memmap(self.root / domain / f"{split}.u16", np.dtype("<u2"), mode="r")


def open_corpus(root: Path) -> Corpus:
    """Open a prepared corpus.

    Raises:
        InvalidInputError: the folder holds no corpus of this format, or its files are cut short.
    """
    try:
        manifest = Manifest.model_validate_json((root / "manifest.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidInputError(f"{root} holds no prepared corpus", fix="moe-search corpus prepare") from error
    if manifest.format != FORMAT:
        raise InvalidInputError(
            f"{root} holds a corpus of format {manifest.format}", allowed=str(FORMAT), fix="moe-search corpus prepare"
        )
    for row in manifest.domains:
        for split in SPLITS:
            path = root / row.domain / f"{split}.u16"
            wanted = 2 * getattr(row.tokens, split)
            if not path.is_file() or path.stat().st_size != wanted:
                raise InvalidInputError(
                    f"{path} is not the {wanted} bytes that the manifest says", fix=f"delete {root} and prepare again"
                )
    return Corpus(root, manifest)
