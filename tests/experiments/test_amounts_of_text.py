"""How much different text there is: of the proxies from the corpus, of the full scale from the target."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from moe_search.experiments.opening import search_problem
from moe_search.experiments.recommending import with_text_of
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import load_spec
from moe_search.proxies.corpus import Corpus
from moe_search.scaling.recommendation import Target
from moe_search.search.problem import Problem
from moe_search.search.repetition import MORE_THAN_ENOUGH
from moe_search.spaces.errors import InvalidInputError

TEXT = """\
name: amounts
folder: results
space:
  granularity: {low: 1, high: 2}
  activation_ratio: {choices: [0.25, 0.5]}
  mixture: {domains: [code, drama, wiki_en], floor: 0.1}
ladder: {sizes: [20_000, 60_000], tokens: [50_000, 100_000]}
shape: {seq_len: 64, head_dim: 8, d_model_multiple: 8}
corpus: {vocab_size: 512}
training: {batch_tokens: 512, evaluation_tokens: 1024}
budget: {train_flops: 4.0e+10}
target: {train_flops: 1.0e+18, unique_tokens: {code: 2.0e+9}}
"""
AMOUNTS = {"code": 3000, "wiki_en": 70}


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    path = tmp_path / "campaign.yaml"
    path.write_text(TEXT)
    return load_spec(path, ())


@pytest.fixture
def problem(spec: Spec) -> Problem:
    corpus = SimpleNamespace(
        domains=tuple(AMOUNTS), data_hash="text", train_tokens=lambda name: np.zeros(AMOUNTS[name])
    )
    return search_problem(spec, cast(Corpus, corpus))


def test_a_search_knows_the_corpus(problem: Problem) -> None:
    assert problem.space.domains == ("code", "wiki_en")  # there is no drama
    assert problem.unique_tokens == (3000, 70)
    assert problem.full_scale_text is None


def test_a_recommendation_knows_the_text_of_the_full_scale(spec: Spec, problem: Problem) -> None:
    asked = with_text_of(problem, spec.target)
    assert asked.full_scale_text == (2e9, MORE_THAN_ENOUGH)
    assert asked.unique_tokens == problem.unique_tokens
    assert with_text_of(problem, Target(train_flops=1e18)) == problem


def test_a_domain_that_was_not_searched_is_refused(problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match="no domain 'drama'") as found:
        with_text_of(problem, Target(train_flops=1e18, unique_tokens=(("drama", 1e9),)))
    assert "code, wiki_en" in str(found.value)


def test_the_target_survives_json(spec: Spec) -> None:
    assert Target.model_validate_json(spec.target.model_dump_json()) == spec.target
    assert hash(spec.target)
