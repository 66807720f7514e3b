"""A corpus and a proxy so small that training them is a matter of milliseconds a step."""

import random
from collections.abc import Callable

import pytest

from moe_search.proxies.corpus import Corpus, CorpusConfig, prepare_corpus
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.architecture import Routing
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved, ShapeRules, resolve

SEQ_LEN = 16
BATCH = 4 * SEQ_LEN
"""Tokens a step."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three domains of repeated words, as bytes: predictable, each in its own letters."""
    root = tmp_path_factory.mktemp("training")
    generator = random.Random(0)
    for domain in ("abc", "mno", "xyz"):
        words = ["".join(generator.choices(domain, k=5)) for _ in range(6)]
        (root / domain).mkdir()
        for number in range(40):
            (root / domain / f"{number}.txt").write_text(" ".join(generator.choices(words, k=60)))
    source = {domain: (str(root / domain),) for domain in ("abc", "mno", "xyz")}
    return prepare_corpus(CorpusConfig(source=source, tokenizer="bytes"), root / "cache", log=lambda _: None)


@pytest.fixture(scope="session")
def resolved(corpus: Corpus) -> Resolved:
    """Two layers of four experts, loss-free balancing: a model with a buffer that training changes."""
    return make_resolved(corpus, Routing(router="sigmoid", balancing="loss_free", balance_coefficient=0.01))


@pytest.fixture(scope="session")
def resolved_with(corpus: Corpus) -> Callable[[Routing], Resolved]:
    return lambda routing: make_resolved(corpus, routing)


def make_resolved(corpus: Corpus, routing: Routing, *, ffn: str = "moe") -> Resolved:
    design = Design(
        ffn=ffn,  # type: ignore[arg-type]
        granularity=2 if ffn == "moe" else 1,
        n_experts=4 if ffn == "moe" else None,
        activation_ratio=0.5 if ffn == "moe" else 1,
        routing=routing,
        mixture=Mixture.normalised({"abc": 2, "mno": 1, "xyz": 1}),
    )
    rules = ShapeRules(vocab_size=corpus.vocab_size, seq_len=SEQ_LEN, head_dim=8, d_model_multiple=8)
    return resolve(design, Scale(n_active=6000, tokens=1), rules)


@pytest.fixture(scope="session")
def recipe() -> TrainingRecipe:
    return TrainingRecipe(
        learning_rate=0.01, batch_tokens=BATCH, warmup_steps=3, evaluation_tokens=256, accelerator="cpu"
    )
