"""What a prepared corpus says about itself: the manifest (for programs) and the NOTICE (for people)."""

from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.spaces.frozen import Frozen

FORMAT = 1
"""Version of everything that turns the same sources into other tokens or another layout of files. A corpus of another
format is prepared anew."""


class SplitSizes(Frozen):
    """A size of each split."""

    train: int
    val: int
    test: int

    @property
    def total(self) -> int:
        """The three together."""
        return self.train + self.val + self.test


class DomainRow(Frozen):
    """One domain of a prepared corpus."""

    domain: str
    title: str
    """What the text is."""
    source: str
    """Packages and versions, or files, that it was read from."""
    licence: str
    attribution: str
    documents: SplitSizes
    n_bytes: SplitSizes
    """Bytes of the clean text, UTF-8."""
    tokens: SplitSizes
    """Tokens of the shards: the text, and an end-of-document token before the first and after every document."""
    too_short: int
    """Documents dropped as stubs."""
    duplicates: int
    """Documents dropped because they repeat another one but for case and blanks."""
    gzip_bits_per_byte: float
    """What gzip makes of the validation text: an anchor for bits per byte (a fair model of the domain is below)."""
    sha256: str
    """Of the three shards, one after the other."""

    @property
    def bytes_per_token(self) -> float:
        """Over all splits."""
        return self.n_bytes.total / self.tokens.total


class MissingDomain(Frozen):
    """A domain that was asked for and could not be had."""

    domain: str
    reason: str


class Manifest(Frozen):
    """Everything about a prepared corpus but the tokens. Equal text and tokenizer give an equal ``data_hash``."""

    format: int
    config: CorpusConfig
    domains: tuple[DomainRow, ...]
    """Sorted by name."""
    missing: tuple[MissingDomain, ...]
    vocab_size: int
    end_of_document: int
    """Token id that stands before the first and after every document; it has no bytes."""
    tokenizer_hash: str
    data_hash: str
    """Hash of domains, tokens and tokenizer: what a run has to record."""

    def row(self, domain: str) -> DomainRow:
        """Return the row of a domain that the corpus has."""
        return next(row for row in self.domains if row.domain == domain)


def notice(manifest: Manifest) -> str:
    """Return the attribution of every domain; it stands beside the shards and belongs to reports that quote text."""
    head = (
        "NOTICE\n\nThe tokens in this folder were made from the texts below. Each text stays under its own licence.\n"
        "Texts under CC BY-SA may be shared only under the same licence and with the attribution given here.\n"
    )
    blocks = [
        f"{row.domain}\n  text: {row.title}\n  source: {row.source}\n  licence: {row.licence}\n"
        f"  attribution: {row.attribution}\n  changes: cleaned, deduplicated, split and tokenised\n"
        for row in manifest.domains
    ]
    return "\n".join([head, *blocks])
