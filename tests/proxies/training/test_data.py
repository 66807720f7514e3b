"""The loader of a leg cuts the stream in larger pieces and gives the same batches."""

import pytest
import torch

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training import data
from moe_search.proxies.training.data import step_loader
from moe_search.spaces.mixture import Mixture


@pytest.mark.parametrize("tokens_together", [1, 64, 5 * 64, 10**6])
def test_a_leg_sees_the_batches_of_its_steps(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tokens_together: int
) -> None:
    monkeypatch.setattr(data, "TOKENS_TOGETHER", tokens_together)
    mixture = Mixture.normalised({"abc": 3, "mno": 1, "xyz": 2})
    stream = MixtureStream(corpus, mixture, batch_sequences=4, seq_len=16, seed=1)
    loader = step_loader(stream, 3, 19, pin_memory=False)
    batches = list(loader)
    assert len(batches) == len(loader) == 16
    for step, batch in enumerate(batches, start=3):
        expected = stream.batch(step)
        assert torch.equal(batch.tokens, expected.tokens)
        assert torch.equal(batch.domains, expected.domains)
    assert stream.batch_sequences == 4
