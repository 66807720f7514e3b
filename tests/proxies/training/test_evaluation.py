import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.model import build_model
from moe_search.proxies.training import evaluation
from moe_search.proxies.training.evaluation import Evaluation, evaluate, held_out_windows, unigram_bound
from moe_search.spaces.architecture import Routing
from moe_search.spaces.resolve import Resolved

SEQ_LEN = 16


def measure(resolved: Resolved, corpus: Corpus, max_tokens: int = 200) -> Evaluation:
    model = build_model(resolved.architecture, seed=0).eval()
    with torch.no_grad():
        return evaluate(model, corpus, max_tokens=max_tokens, split="val", device=torch.device("cpu"))


def test_windows_are_spread_over_the_text_and_know_their_bytes(corpus: Corpus) -> None:
    held_out = corpus.held_out("abc", "val")
    windows = held_out_windows(corpus, "abc", seq_len=SEQ_LEN, max_tokens=100, split="val")
    assert windows.tokens.shape == (6, SEQ_LEN + 1)
    text = held_out.tokens.astype(np.int64)
    starts = [
        next(i for i in range(0, len(text), SEQ_LEN) if np.array_equal(text[i : i + SEQ_LEN + 1], row))
        for row in windows.tokens.numpy()
    ]
    assert starts == sorted(set(starts)), "each window once, in order"
    assert starts[-1] > 0.7 * len(text)
    end_of_document = int(text[0])
    assert windows.n_bytes == int((windows.tokens[:, 1:] != end_of_document).sum())


def test_with_enough_budget_every_whole_window_is_scored(corpus: Corpus) -> None:
    held_out = corpus.held_out("abc", "val")
    windows = held_out_windows(corpus, "abc", seq_len=SEQ_LEN, max_tokens=10**9, split="val")
    assert len(windows.tokens) == held_out.n_targets // SEQ_LEN
    assert windows.tokens[:, 1:].flatten().tolist() == held_out.tokens[1 : len(windows.tokens) * SEQ_LEN + 1].tolist()


def test_a_text_shorter_than_a_window_is_one_shorter_window(corpus: Corpus) -> None:
    held_out = corpus.held_out("abc", "val")
    windows = held_out_windows(corpus, "abc", seq_len=10**6, max_tokens=1, split="val")
    assert windows.tokens.shape == (1, held_out.n_targets + 1)
    assert windows.n_bytes == held_out.n_bytes


def test_losses_are_those_of_a_plain_cross_entropy(corpus: Corpus, resolved: Resolved) -> None:
    found = measure(resolved, corpus)
    model = build_model(resolved.architecture, seed=0).eval()
    for domain in corpus.domains:
        windows = held_out_windows(corpus, domain, seq_len=SEQ_LEN, max_tokens=200, split="val")
        with torch.no_grad():
            logits = model.logits(model(windows.tokens[:, :-1]).hidden)
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows.tokens[:, 1:].flatten(), reduction="sum")
        assert found.domain_loss[domain] == pytest.approx(float(nats) / windows.tokens[:, 1:].numel(), rel=1e-5)
        assert found.domain_bpb[domain] == pytest.approx(float(nats) / math.log(2) / windows.n_bytes, rel=1e-5)
    assert found.loss == pytest.approx(np.mean(list(found.domain_loss.values())))
    assert found.bpb == pytest.approx(np.mean(list(found.domain_bpb.values())))


def test_the_size_of_a_forward_pass_changes_no_result(
    corpus: Corpus, resolved: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(resolved, corpus)
    monkeypatch.setitem(evaluation.BATCH_TOKENS, "cpu", 3 * SEQ_LEN)
    parts = measure(resolved, corpus)
    assert parts.domain_loss == pytest.approx(whole.domain_loss, rel=1e-6)
    assert parts.expert_load == whole.expert_load


def test_the_random_router_is_balanced_and_statistics_cover_all_domains(
    corpus: Corpus, resolved_with: Callable[[Routing], Resolved]
) -> None:
    found = measure(resolved_with(Routing(router="random", balancing="none")), corpus, max_tokens=10**6)
    scored = sum(corpus.held_out(domain, "val").n_targets // SEQ_LEN * SEQ_LEN for domain in corpus.domains)
    assert all(int(layer.counts.sum()) == 2 * scored for layer in found.routing)
    assert found.router_entropy is not None
    assert found.load_imbalance is not None
    assert found.router_entropy > 0.99
    assert 1 <= found.load_imbalance < 1.3


def test_the_unigram_bound_is_the_mean_over_domains(corpus: Corpus) -> None:
    assert unigram_bound(corpus, "val") == pytest.approx(
        np.mean([corpus.unigram_loss(domain, "val") for domain in corpus.domains])
    )
