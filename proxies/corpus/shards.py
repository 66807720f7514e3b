"""Tokenise one domain and write its shards.

A shard is plain little-endian uint16, to be memory-mapped: an end-of-document token, then the documents, each with an
end-of-document token behind it.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_search.proxies.corpus.documents import SPLITS, Document, Selection, total_bytes
from moe_search.proxies.corpus.inputs import DomainInput
from moe_search.proxies.corpus.manifest import DomainRow, SplitSizes
from moe_search.proxies.corpus.tokenizer import Tokenizer, Tokens

CHUNK_BYTES = 2_000_000
"""Text tokenised at once; bounds memory and keeps all threads busy."""


def write_domain(
    folder: Path, item: DomainInput, selection: Selection, *, tokenizer: Tokenizer, vocab_size: int
) -> DomainRow:
    """Write the shards of a domain into ``folder/<domain>`` and return its row of the manifest."""
    target = folder / item.domain
    target.mkdir()
    digest = hashlib.sha256()
    token_bytes = tokenizer.token_bytes(vocab_size)
    sizes: dict[str, dict[str, int]] = {"documents": {}, "n_bytes": {}, "tokens": {}}
    for split in SPLITS:
        documents = selection.of(split)
        counts = np.zeros(vocab_size, np.int64)
        lengths: list[int] = []
        with (target / f"{split}.u16").open("wb") as file:
            for tokens in _with_ends(_encoded(documents, tokenizer), tokenizer.end_of_document):
                counts += np.bincount(tokens, minlength=vocab_size)
                data = tokens.astype("<u2").tobytes()
                digest.update(data)
                file.write(data)
                lengths.append(len(tokens))
        if counts @ token_bytes != total_bytes(documents):
            raise AssertionError(f"the tokens of {item.domain}/{split} do not stand for the bytes of its text")
        np.save(target / f"{split}.offsets.npy", np.cumsum(lengths))
        np.save(target / f"{split}.counts.npy", counts)
        sizes["documents"][split] = len(documents)
        sizes["n_bytes"][split] = total_bytes(documents)
        sizes["tokens"][split] = int(counts.sum())
    held_out = {split: [document.name for document in selection.of(split)] for split in ("val", "test")}
    (target / "held_out.json").write_text(json.dumps(held_out, indent=0), encoding="utf-8")
    val_text = "".join(document.text for document in selection.val).encode()
    return DomainRow(
        domain=item.domain,
        title=item.title,
        source=item.source,
        licence=item.licence,
        attribution=item.attribution,
        documents=SplitSizes(**sizes["documents"]),
        n_bytes=SplitSizes(**sizes["n_bytes"]),
        tokens=SplitSizes(**sizes["tokens"]),
        too_short=selection.too_short,
        duplicates=selection.duplicates,
        gzip_bits_per_byte=round(8 * len(zlib.compress(val_text, 6)) / len(val_text), 4),
        sha256=digest.hexdigest(),
    )


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Tokens]:
    """Yield the tokens of each document; encodes ``CHUNK_BYTES`` of text at once."""
    chunk: list[str] = []
    n_bytes = 0
    for document in documents:
        chunk.append(document.text)
        n_bytes += document.n_bytes
        if n_bytes >= CHUNK_BYTES:
            yield from tokenizer.encode(chunk)
            chunk, n_bytes = [], 0
    yield from tokenizer.encode(chunk)


def _with_ends(documents: Iterable[Tokens], end_of_document: int) -> Iterator[NDArray[np.uint16]]:
    """Yield the parts of a shard: the first end-of-document token, then each document with its own."""
    end = np.array([end_of_document], np.uint16)
    yield end
    for tokens in documents:
        yield np.concatenate([tokens, end])
