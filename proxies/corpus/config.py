"""What a corpus is made of and how it is tokenised. Everything in here changes the tokens, so all of it is hashed."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen

BYTES_VOCABULARY = 257
"""256 bytes and the end of a document: the vocabulary of the ``bytes`` tokenizer and the smallest one of ``bpe``."""
LARGEST_VOCABULARY = 65_536
"""What an unsigned 16-bit token can tell apart."""
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class CorpusConfig(Frozen):
    """The default corpus or the user's own files, the split and the tokenizer.

    The held-out text does not depend on ``max_bytes_per_domain``, nor does the tokenizer while the cap is no smaller
    than its sample: runs on a capped corpus and on the whole one compare.
    """

    source: Literal["default"] | dict[str, tuple[str, ...]] = "default"
    """``default``, or for each domain of your own the files (``.txt``: one document; ``.jsonl``, ``.jsonl.gz``: a
    ``text`` field a line) and folders of such files."""
    domains: tuple[str, ...] = ()
    """The domains of the source to take; empty takes all."""
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    """Byte-level BPE trained on a balanced sample of the train split, or the bytes themselves (nothing to train)."""
    vocab_size: int = Field(default=4096, ge=BYTES_VOCABULARY, le=LARGEST_VOCABULARY)
    """Token ids, the end-of-document token included; always 257 for ``bytes``."""
    held_out_share: float = Field(default=0.04, gt=0, le=0.25)
    """Share of a domain's bytes in ``val``, and again in ``test``; whole documents."""
    max_bytes_per_domain: int | None = Field(default=None, ge=10_000)
    """Cap on a domain's training text, bytes; None takes all (54 MB for the default corpus, 18 M tokens)."""
    tokenizer_sample_bytes: int = Field(default=2_000_000, ge=10_000)
    """Training text that the BPE sees of each domain, bytes: balanced, so that small domains are not spelled out."""

    @model_validator(mode="before")
    @classmethod
    def _bytes_have_one_vocabulary(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("tokenizer") == "bytes":
            return {"vocab_size": BYTES_VOCABULARY, **value}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokenizer == "bytes" and self.vocab_size != BYTES_VOCABULARY:
            raise InvalidInputError(
                f"the tokenizer is bytes but vocab_size is {self.vocab_size}",
                where="corpus.vocab_size",
                allowed=str(BYTES_VOCABULARY),
                fix="leave vocab_size out",
            )
        if isinstance(self.source, dict):
            self._check_own_domains(self.source)
        return self

    def _check_own_domains(self, source: dict[str, tuple[str, ...]]) -> None:
        for domain, paths in source.items():
            if not DOMAIN_NAME.fullmatch(domain):
                raise InvalidInputError(
                    f"{domain!r} is no name for a domain",
                    where="corpus.source",
                    allowed="letters, digits, _ - . beginning with a letter or digit",
                    fix=re.sub(r"[^A-Za-z0-9_.-]+", "_", domain).lstrip("_.-") or "text",
                )
            if not paths:
                raise InvalidInputError("no files are given", where=f"corpus.source.{domain}", fix="name one file")
        if not source:
            raise InvalidInputError("no domain is given", where="corpus.source", fix="default")
