import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.proxies.corpus import Corpus, CorpusConfig, prepare_corpus
from moe_search.proxies.stream import MixtureStream, apportion, permute, restrict_mixture, sequences_between
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture

LENGTHS = {"long": 40, "middle": 12, "short": 4}
"""Documents of each domain."""
SEQ_LEN = 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three domains of different sizes, as bytes; each has letters of its own."""
    root = tmp_path_factory.mktemp("stream")
    generator = random.Random(0)
    for letters, (domain, documents) in zip(("abc", "mno", "xyz"), LENGTHS.items(), strict=True):
        (root / domain).mkdir()
        for number in range(documents):
            (root / domain / f"{number}.txt").write_text("".join(generator.choices(letters, k=100)))
    source = {domain: (str(root / domain),) for domain in LENGTHS}
    return prepare_corpus(CorpusConfig(source=source, tokenizer="bytes"), root / "cache", log=lambda _: None)


def stream(corpus: Corpus, seed: int = 0, batch_sequences: int = 8, **weights: float) -> MixtureStream:
    mixture = Mixture.normalised(weights or dict.fromkeys(LENGTHS, 1.0))
    return MixtureStream(corpus, mixture, batch_sequences=batch_sequences, seq_len=SEQ_LEN, seed=seed)


weights = st.lists(st.floats(1e-4, 1), min_size=1, max_size=12).map(lambda values: np.array(values) / sum(values))


@given(st.integers(0, 10**9), weights)
def test_apportionment_is_exact_monotone_and_close_to_the_quota(n: int, weights: np.ndarray) -> None:
    counts = apportion(n, weights)
    assert counts.sum() == n
    assert np.all(np.abs(counts - n * weights) <= 0.5 + weights * len(weights) / 2 + 1e-6)
    following = apportion(n + 1, weights) - counts
    assert sorted(following.tolist()) == [0] * (len(weights) - 1) + [1]


@given(st.integers(0, 2000), weights)
def test_apportionment_takes_the_earliest_due_times(n: int, weights: np.ndarray) -> None:
    counts = np.zeros(len(weights), np.int64)
    for _ in range(n):
        counts[np.argmin((counts + 0.5) / weights)] += 1
    np.testing.assert_array_equal(apportion(n, weights), counts)


def test_counts_are_nearly_always_within_one_of_the_quota() -> None:
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(500):
        share = generator.dirichlet(np.ones(8))
        n = int(generator.integers(1, 100_000))
        errors.append(np.abs(apportion(n, share) - n * share).max())
    assert np.mean(np.array(errors) < 1) > 0.97


@given(st.integers(0, 10**6), st.lists(st.integers(1, 40), min_size=1, max_size=8), weights)
def test_the_stream_of_sequences_does_not_depend_on_the_cuts(start: int, sizes: list[int], weights: np.ndarray) -> None:
    whole = sequences_between(start, start + sum(sizes), weights)
    borders = start + np.cumsum([0, *sizes])
    pieces = [sequences_between(int(low), int(high), weights) for low, high in pairwise(borders)]
    for column in (0, 1):
        np.testing.assert_array_equal(np.concatenate([piece[column] for piece in pieces]), whole[column])


@settings(max_examples=40)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    keys = np.tile(np.array([key, 1, 2, 3], np.uint64), (size, 1))
    places = permute(np.arange(size), np.full(size, size), keys)
    np.testing.assert_array_equal(np.sort(places), np.arange(size))


def test_permutations_look_random() -> None:
    """Neighbours land anywhere: no more ascending steps, and no more equal strides, than by chance."""
    size = 4000
    keys = np.tile(np.random.default_rng(0).integers(0, 2**63, 4).astype(np.uint64), (size, 1))
    places = permute(np.arange(size), np.full(size, size), keys)
    steps = np.diff(places)
    assert abs(np.mean(steps > 0) - 0.5) < 0.03
    assert Counter(steps.tolist()).most_common(1)[0][1] < 15
    assert abs(np.corrcoef(np.arange(size), places)[0, 1]) < 0.06


def test_batches_have_the_promised_form_and_come_from_their_domains(corpus: Corpus) -> None:
    tokens, domains = stream(corpus).batch(3)
    assert (tokens.shape, tokens.dtype) == ((8, SEQ_LEN + 1), torch.int64)
    assert (domains.shape, domains.dtype) == ((8,), torch.int64)
    for row, domain in zip(tokens, domains, strict=True):
        text = corpus.train_tokens(corpus.domains[domain])
        doubled = np.concatenate([text, text[: SEQ_LEN + 1]]).astype(np.int64).tobytes()
        assert row.numpy().tobytes() in doubled


def test_a_batch_is_a_function_of_seed_and_step(corpus: Corpus) -> None:
    forwards = [stream(corpus, seed=1).batch(step) for step in range(30)]
    again = stream(corpus, seed=1)
    for step in reversed(range(30)):
        assert torch.equal(again.batch(step).tokens, forwards[step].tokens)
        assert torch.equal(again.batch(step).domains, forwards[step].domains)
    assert not torch.equal(stream(corpus, seed=2).batch(0).tokens, forwards[0].tokens)


def test_the_batch_size_only_cuts(corpus: Corpus) -> None:
    small = torch.cat([stream(corpus, batch_sequences=4).batch(step).tokens for step in range(6)])
    large = torch.cat([stream(corpus, batch_sequences=12).batch(step).tokens for step in range(2)])
    assert torch.equal(small, large)


def test_proportions_are_exact_after_any_number_of_steps(corpus: Corpus) -> None:
    mixture = {"long": 0.62, "middle": 0.3, "short": 0.08}
    batches = stream(corpus, batch_sequences=3, **mixture)
    counts = np.zeros(3)
    for step in range(200):
        counts += np.bincount(batches.batch(step).domains, minlength=3)
        quota = 3 * (step + 1) * np.array([mixture[domain] for domain in corpus.domains])
        assert np.all(np.abs(counts - quota) <= 1.0)


def sequences_of(corpus: Corpus, domain: str, steps: int, **weights: float) -> list[bytes]:
    index = corpus.domains.index(domain)
    batches = [stream(corpus, **weights).batch(step) for step in range(steps)]
    return [row.numpy().tobytes() for batch in batches for row in batch.tokens[batch.domains == index]]


def test_another_mixture_keeps_the_order_within_each_domain(corpus: Corpus) -> None:
    one = sequences_of(corpus, "long", 20, long=0.5, middle=0.5)
    other = sequences_of(corpus, "long", 20, long=0.2, middle=0.1, short=0.7)
    assert len(one) > len(other) > 20
    assert one[: len(other)] == other


def test_an_epoch_visits_every_window_once_and_the_next_in_another_order(corpus: Corpus) -> None:
    tokens = corpus.train_tokens("middle")
    windows = len(tokens) // SEQ_LEN
    batches = stream(corpus, batch_sequences=windows, middle=1.0)
    first, second = (batches.batch(epoch).tokens[:, :-1] for epoch in (0, 1))
    for epoch in (first, second):
        drawn = np.bincount(epoch.flatten(), minlength=257)
        left_over = np.bincount(tokens, minlength=257) - drawn
        assert left_over.min() >= 0
        assert left_over.sum() == len(tokens) % SEQ_LEN
        assert len({row.numpy().tobytes() for row in epoch}) == windows
    assert not torch.equal(first, second)


def test_a_domain_shorter_than_a_sequence_goes_round(corpus: Corpus) -> None:
    tokens = corpus.train_tokens("short")
    seq_len = 2 * len(tokens) + 3
    batches = MixtureStream(corpus, Mixture.uniform(("short",)), batch_sequences=2, seq_len=seq_len, seed=0)
    row = batches.batch(5).tokens[0].numpy()
    assert len(row) == seq_len + 1
    np.testing.assert_array_equal(row[: len(tokens)], row[len(tokens) : 2 * len(tokens)])


def test_epochs_count_the_text_gone_through(corpus: Corpus) -> None:
    epochs = stream(corpus, long=0.75, short=0.25).epochs(10_000)
    assert epochs == {
        "long": pytest.approx(7_500 / len(corpus.train_tokens("long"))),
        "short": pytest.approx(2_500 / len(corpus.train_tokens("short"))),
    }


def test_domains_without_weight_are_never_drawn(corpus: Corpus) -> None:
    batches = stream(corpus, long=1.0, short=0.0)
    assert {int(domain) for step in range(20) for domain in batches.batch(step).domains} == {0}
    assert set(batches.epochs(100)) == {"long"}


def test_unknown_domains_are_refused_with_the_list(corpus: Corpus) -> None:
    with pytest.raises(
        InvalidInputError, match=r"mixture: the corpus has no domain news; allowed: long, middle, short"
    ):
        stream(corpus, news=0.5, long=0.5)


def test_a_mixture_can_be_restricted_to_what_is_there(corpus: Corpus) -> None:
    mixture = Mixture.normalised({"long": 1.0, "short": 3.0, "gone": 4.0})
    assert dict(restrict_mixture(mixture, corpus.domains).items()) == pytest.approx({"long": 0.25, "short": 0.75})
    with pytest.raises(InvalidInputError, match="none of the domains gone is in the corpus"):
        restrict_mixture(Mixture.uniform(("gone",)), corpus.domains)


def test_the_train_split_alone_is_drawn(corpus: Corpus, tmp_path: Path) -> None:
    """No window of the stream holds a held-out document (they are 100 letters of chance)."""
    held_out = corpus.held_out("long").tokens[1:SEQ_LEN].astype(np.int64).tobytes()
    text = b"".join(sequences_of(corpus, "long", 200, long=1.0))
    assert held_out not in text
