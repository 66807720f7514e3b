"""What a trained proxy is measured on: held-out text of every domain, the same windows for every proxy.

The windows of a domain are spread evenly over its held-out documents, and bits per byte divide the nats of exactly
their target tokens by the bytes of exactly those tokens. The routing is measured on the same text.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.corpus.documents import Split
from moe_search.proxies.model import DecoderLM, RoutingStatistics

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Tokens of one forward pass: what fits a core's caches, what fills a GPU. It changes nothing but speed and memory."""


class Windows(NamedTuple):
    """The held-out windows of one domain."""

    tokens: Tensor
    """(windows, length + 1) int64: the first token of a window is context, the others are scored."""
    n_bytes: int
    """Bytes of the scored tokens."""


@dataclass(frozen=True)
class Evaluation:
    """Losses and routing of one model on held-out text."""

    domain_loss: dict[str, float]
    """Nats a token."""
    domain_bpb: dict[str, float]
    """Bits a byte."""
    routing: tuple[RoutingStatistics, ...]
    """One for every MoE layer, over all domains."""

    @property
    def loss(self) -> float:
        """Mean over domains, nats a token."""
        return sum(self.domain_loss.values()) / len(self.domain_loss)

    @property
    def bpb(self) -> float:
        """Mean over domains, bits a byte."""
        return sum(self.domain_bpb.values()) / len(self.domain_bpb)

    @property
    def load_imbalance(self) -> float | None:
        """Largest expert load over the mean load, averaged over MoE layers; None for a dense model."""
        return _mean([layer.load_imbalance for layer in self.routing])

    @property
    def router_entropy(self) -> float | None:
        """Entropy of the mean gate distribution over ln(n_experts), averaged over MoE layers; None if dense."""
        return _mean([layer.entropy for layer in self.routing])

    @property
    def expert_load(self) -> tuple[tuple[float, ...], ...]:
        """Share of the assignments of each expert of each MoE layer."""
        return tuple(tuple(layer.load.tolist()) for layer in self.routing)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def held_out_windows(corpus: Corpus, domain: str, *, seq_len: int, max_tokens: int, split: Split) -> Windows:
    """Return evenly spread windows of ``seq_len`` tokens that score at most ``max_tokens`` tokens, at least one window.

    A domain with less text than one window gives one shorter window.
    """
    held_out = corpus.held_out(domain, split)
    length = min(seq_len, held_out.n_targets)
    available = held_out.n_targets // length
    wanted = min(available, max(1, max_tokens // length))
    chosen = np.arange(wanted) * available // wanted
    tokens = held_out.tokens[(chosen * length)[:, None] + np.arange(length + 1)].astype(np.int64)
    return Windows(torch.from_numpy(tokens), int(corpus.token_bytes[tokens[:, 1:]].sum()))


@torch.no_grad()
def evaluate(model: DecoderLM, corpus: Corpus, *, max_tokens: int, split: Split, device: torch.device) -> Evaluation:
    """Measure ``model`` (in evaluation mode, on ``device``) on every domain of the corpus.

    Args:
        model: what to measure.
        corpus: gives the held-out text; also the domains that the model was not trained on.
        max_tokens: tokens a domain.
        split: which held-out text.
        device: where the model is.
    """
    seq_len = model.architecture.seq_len
    windows = {
        domain: held_out_windows(corpus, domain, seq_len=seq_len, max_tokens=max_tokens, split=split)
        for domain in corpus.domains
    }
    sums: list[Tensor] = []
    routing: tuple[RoutingStatistics, ...] = ()
    for tokens, _ in windows.values():
        nats = torch.zeros((), dtype=torch.float64, device=device)
        for part in torch.split(tokens, max(1, BATCH_TOKENS[device.type] // seq_len)):
            output = model.loss(part.to(device, non_blocking=True))
            nats += output.token_nats.double().sum()
            routing = tuple(a + b for a, b in zip(routing, output.routing, strict=True)) if routing else output.routing
        sums.append(nats)
    domain_nats = dict(zip(windows, torch.stack(sums).tolist(), strict=True))  # a GPU is waited for once
    return Evaluation(
        {domain: nats / windows[domain].tokens[:, 1:].numel() for domain, nats in domain_nats.items()},
        {domain: nats / math.log(2) / windows[domain].n_bytes for domain, nats in domain_nats.items()},
        routing,
    )


def unigram_bound(corpus: Corpus, split: Split) -> float:
    """Return the unigram loss of the held-out text, mean over domains, nats a token."""
    return sum(corpus.unigram_loss(domain, split) for domain in corpus.domains) / len(corpus.domains)
