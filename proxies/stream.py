"""The training batches of one mixture: exact proportions, and every batch a function of (seed, step) alone.

The stream is one endless sequence of training sequences that is cut into batches, so it does not depend on the batch
size, and a resumed run continues it exactly. Two choices are made for each sequence, neither with any state:

* *Which domain?* The ``i``-th sequence of a domain of weight ``w`` is due at time ``(i + 1/2) / w``; sequences come in
  the order of their due times. After ``n`` sequences a domain has had its ``n * w`` but for at most
  ``1/2 + w * domains / 2``, and nearly always less than one (this is apportionment by Webster's method, which is also
  monotone: no sequence is ever taken back).
* *Which text?* The ``i``-th sequence of a domain is window ``i`` of the domain's tokens in an order that depends on
  the seed, the domain and the epoch only. So two designs with one seed and mixture see the same batches, and another
  mixture changes how much is taken of each domain but not in which order: paired comparisons share their noise.

References:
    Balinski and Young, Fair Representation, 1982 (divisor methods);
    Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002 (permuting by cycle walking).
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_search.proxies.corpus.corpus import Corpus
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
ROUNDS = 4
"""Of the Feistel network: with good round functions, four make a permutation that none tells from a random one (Luby
and Rackoff, How to Construct Pseudorandom Permutations, 1988)."""


class Batch(NamedTuple):
    """Training sequences and the domain each is from."""

    tokens: Tensor
    """(batch_sequences, seq_len + 1) int64: inputs are ``[:, :-1]``, targets ``[:, 1:]``."""
    domains: Tensor
    """(batch_sequences,) int64: places in ``Corpus.domains``."""


class MixtureStream:
    """Batches of a corpus in the proportions of a mixture.

    Args:
        corpus: where the tokens are.
        mixture: share of the training tokens of each domain; all its domains must be in the corpus (see
            ``restrict_mixture``).
        batch_sequences: sequences a batch.
        seq_len: tokens a sequence, targets; windows overlap by the one token that is input only.
        seed: orders the windows of each domain.

    Raises:
        InvalidInputError: the mixture names a domain that the corpus does not have.
    """

    def __init__(self, corpus: Corpus, mixture: Mixture, *, batch_sequences: int, seq_len: int, seed: int) -> None:
        unknown = [domain for domain in mixture.domains if domain not in corpus.domains]
        if unknown or not mixture.domains:
            raise InvalidInputError(
                f"the corpus has no domain {', '.join(unknown)}" if unknown else "the mixture is empty",
                where="mixture",
                allowed=", ".join(corpus.domains),
                fix="leave it out and renormalise",
            )
        self.mixture = mixture
        self.batch_sequences = batch_sequences
        self.seq_len = seq_len
        self.seed = seed
        weights = np.array(mixture.weights)
        self._domains = [domain for domain in mixture.domains if mixture[domain] > 0]
        self._weights = weights[weights > 0] / weights.sum()
        self._index = np.array([corpus.domains.index(domain) for domain in self._domains])
        self._tokens = [corpus.train_tokens(domain) for domain in self._domains]
        self._lengths = np.array([len(tokens) for tokens in self._tokens])

    def batch(self, step: int) -> Batch:
        """Return batch number ``step``, counted from 0."""
        start = step * self.batch_sequences
        domain, number = sequences_between(start, start + self.batch_sequences, self._weights)
        begin = self._window_starts(domain, number)
        tokens = np.empty((self.batch_sequences, self.seq_len + 1), np.int64)
        for index in np.unique(domain):
            rows, text = domain == index, self._tokens[index]
            tokens[rows] = text[(begin[rows, None] + np.arange(self.seq_len + 1)) % len(text)]
        return Batch(torch.from_numpy(tokens), torch.from_numpy(self._index[domain]))

    def epochs(self, tokens: int) -> dict[str, float]:
        """Return how often each domain's training text is gone through in a run of ``tokens`` tokens."""
        drawn = tokens * self._weights / self._lengths
        return {domain: float(epochs) for domain, epochs in zip(self._domains, drawn, strict=True)}

    def _window_starts(self, domain: Integers, number: Integers) -> Integers:
        """Return where in its domain's tokens each sequence begins.

        An epoch is as many whole windows as the domain has. It begins at a random place and goes round, so that the
        borders of the windows and the tokens left over differ from epoch to epoch.

        Args:
            domain: place of each sequence's domain in ``self._domains``: (n,).
            number: number of each sequence within its domain: (n,).

        Returns:
            positions, (n,), to be taken modulo the tokens of the domain.
        """
        lengths = self._lengths[domain]
        windows = np.maximum(lengths // self.seq_len, 1)
        epoch, index = np.divmod(number, windows)
        keys = np.stack(
            [_keys(self.seed, self._domains[i], e) for i, e in zip(domain.tolist(), epoch.tolist(), strict=True)]
        )
        first = (keys[:, 0] % lengths.astype(np.uint64)).astype(np.int64)
        return first + self.seq_len * permute(index, windows, keys[:, 1:])


def restrict_mixture(mixture: Mixture, domains: tuple[str, ...]) -> Mixture:
    """Return the mixture over those of its domains that are there, renormalised.

    Raises:
        InvalidInputError: nothing of the mixture's weight is left.
    """
    left = {domain: weight for domain, weight in mixture.items() if domain in domains}
    if not sum(left.values()) > 0:
        raise InvalidInputError(
            f"none of the domains {', '.join(mixture.domains)} is in the corpus",
            where="mixture",
            allowed=", ".join(domains),
        )
    return Mixture.normalised(left)


def apportion(n: int, weights: NDArray[np.float64]) -> Integers:
    """Return how many of the first ``n`` sequences each domain has: (domains,), summing to ``n``.

    These are the ``n`` smallest due times ``(i + 1/2) / w``; ties go to the domain that comes first. Most are counted
    at once, as those before a time that is safely early, the last few one by one.
    """
    early = n - len(weights) / 2 - 1
    counts = np.maximum(np.floor(early * weights + 0.5), 0).astype(np.int64)
    for _ in range(n - int(counts.sum())):
        counts[np.argmin((counts + 0.5) / weights)] += 1
    return counts


def sequences_between(start: int, stop: int, weights: NDArray[np.float64]) -> tuple[Integers, Integers]:
    """Return the sequences ``start`` to ``stop`` of the stream.

    Args:
        start: first sequence.
        stop: the one after the last.
        weights: (domains,), positive, summing to one.

    Returns:
        the domain of each sequence and its number within the domain, both (stop - start,).
    """
    before, after = apportion(start, weights), apportion(stop, weights)
    domain = np.repeat(np.arange(len(weights)), after - before)
    number = np.concatenate([np.arange(low, high) for low, high in zip(before, after, strict=True)])
    order = np.lexsort((domain, (number + 0.5) / weights[domain]))
    return domain[order], number[order]


def permute(index: Integers, size: Integers, keys: Words) -> Integers:
    """Return where keyed pseudo-random permutations put each index; no table is made.

    A Feistel network permutes the numbers below an even power of two; what falls outside ``0 .. size - 1`` is sent
    through again, which ends inside because the network is a permutation (cycle walking, four passes on average at
    most).

    Args:
        index: (n,), from ``0 .. size - 1``.
        size: (n,) elements of the permutation that the index is of.
        keys: (n, rounds) words that make the permutation; equal for the indices of one permutation.

    Returns:
        (n,) from ``0 .. size - 1``; distinct for distinct indices of one permutation.
    """
    half = np.maximum((np.ceil(np.log2(size)).astype(np.uint64) + np.uint64(1)) // np.uint64(2), np.uint64(1))
    place = index.astype(np.uint64)
    outside = np.ones(len(place), bool)
    while outside.any():
        place[outside] = _feistel(place[outside], half[outside], keys[outside])
        outside = place >= size.astype(np.uint64)
    return place.astype(np.int64)


def _feistel(words: Words, half: Words, keys: Words) -> Words:
    """Permute words (n,) of ``2 * half`` bits, one round a column of ``keys``."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & mask
    for key in keys.T:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << half | right


def _mix(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every output bit depends on every input bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=4096)
def _keys(seed: int, domain: str, epoch: int) -> Words:
    """Return the random words of an epoch of a domain: one for its beginning, one a Feistel round."""
    digest = hashlib.blake2b(f"{seed}/{domain}/{epoch}".encode(), digest_size=8 * (1 + ROUNDS)).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)
