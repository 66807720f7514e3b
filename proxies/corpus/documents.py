"""From raw texts to the documents of a domain: cleaned, long enough, distinct, ordered by hash, split by bytes.

The split takes whole documents and is by *byte quota*: a plain share of documents leaves 1.7 % of the bytes of a domain
of long documents in validation, the quota 4.1 %. The order is a hash of the document's name, so it depends on no file
order, and a cap takes a prefix of it.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, NamedTuple

from moe_search.spaces.errors import InvalidInputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_BLANK_LINES = re.compile(r"\n{3,}")


class Document(NamedTuple):
    """One document: a name that is unique in its domain, and its clean text."""

    name: str
    text: str
    n_bytes: int
    """Length of ``text`` in UTF-8."""


class Selection(NamedTuple):
    """The documents of a domain, and what was left out."""

    train: list[Document]
    val: list[Document]
    test: list[Document]
    too_short: int
    duplicates: int

    def of(self, split: Split) -> list[Document]:
        """Return the documents of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    @property
    def all(self) -> list[Document]:
        """The documents of all splits."""
        return [*self.train, *self.val, *self.test]


def clean(text: str) -> str:
    """Return ``text`` in NFC with LF line ends, no trailing blanks, at most one empty line and one final line end."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n", text).strip() + "\n"


def select(
    domain: str,
    texts: Iterable[tuple[str, str]],
    *,
    min_bytes: int = 2,
    max_bytes: int | None = None,
    held_out_share: float,
    max_train_bytes: int | None = None,
) -> Selection:
    """Clean, deduplicate, order and split the raw (name, text) pairs of a domain.

    Args:
        domain: the domain's name; it is part of the order.
        texts: (name, raw text) of every candidate.
        min_bytes: shorter clean documents are dropped (2 drops the empty ones).
        max_bytes: cap on the whole domain, before the split; bytes.
        held_out_share: share of the bytes for ``val`` and again for ``test``.
        max_train_bytes: cap on ``train`` alone, after the split; bytes.

    Raises:
        InvalidInputError: fewer documents than splits.
    """
    documents, too_short, duplicates = _distinct(texts, min_bytes)
    documents.sort(key=lambda document: (_order(domain, document.name), document.text))
    documents = prefix(documents, max_bytes)
    quota = held_out_share * total_bytes(documents)
    val = _at_least(documents, quota)
    test = _at_least(documents[len(val) :], quota)
    train = documents[len(val) + len(test) :]
    if not train or not test:
        raise InvalidInputError(
            f"{len(documents)} distinct documents cannot be split into train, val and test",
            where=f"corpus.source.{domain}",
            allowed="at least 3 documents of similar length",
            fix="cut long texts into documents, one a line of a .jsonl file",
        )
    return Selection(prefix(train, max_train_bytes), val, test, too_short, duplicates)


def _distinct(texts: Iterable[tuple[str, str]], min_bytes: int) -> tuple[list[Document], int, int]:
    """Return the clean documents of at least ``min_bytes`` that differ beyond case and blanks; the counts dropped."""
    documents: list[Document] = []
    seen: set[bytes] = set()
    too_short = duplicates = 0
    for name, raw in texts:
        text = clean(raw)
        n_bytes = len(text.encode())
        folded = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest()
        if n_bytes < min_bytes:
            too_short += 1
        elif folded in seen:
            duplicates += 1
        else:
            seen.add(folded)
            documents.append(Document(name, text, n_bytes))
    return documents, too_short, duplicates


def _order(domain: str, name: str) -> bytes:
    return hashlib.blake2b(f"{domain}/{name}".encode(), digest_size=8).digest()


def total_bytes(documents: Iterable[Document]) -> int:
    """Return the bytes of the texts."""
    return sum(document.n_bytes for document in documents)


def prefix(documents: list[Document], max_bytes: int | None) -> list[Document]:
    """Return the longest prefix of at most ``max_bytes``, but at least one document."""
    total = 0
    for taken, document in enumerate(documents):
        total += document.n_bytes
        if max_bytes is not None and total > max_bytes:
            return documents[: max(taken, 1)]
    return documents


def _at_least(documents: list[Document], n_bytes: float) -> list[Document]:
    """Return the shortest prefix of at least ``n_bytes``."""
    total = 0
    for taken, document in enumerate(documents, start=1):
        total += document.n_bytes
        if total >= n_bytes:
            return documents[:taken]
    return documents
