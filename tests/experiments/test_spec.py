from pathlib import Path
from typing import cast

import pytest
import yaml

from moe_search.experiments import evaluate
from moe_search.experiments.opening import check_unchanged, planned_problem
from moe_search.experiments.presets.catalogue import preset_names, preset_path
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.checks import check_possible
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.experiments.spec.loading import load_spec, resolved_text
from moe_search.proxies.corpus import Corpus
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.search.initial_design import initial_design
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.run import Run

TEXT = """\
name: tiny
folder: results
corpus:
  source: {prose: [prose.txt], code: [code.txt], lists: [lists.txt]}
  vocab_size: 512
space:
  granularity: {low: 1, high: 4}
  activation_ratio: 0.25
  mixture:
    domains: [prose, code, lists]
ladder:
  sizes: [20_000]
  tokens: [20_000]
budget:
  train_flops: 1e12
target:
  train_flops: 1e20
"""


def load(tmp_path: Path, text: str = TEXT, *settings: str) -> Spec:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return load_spec(path, settings)


def refused(tmp_path: Path, text: str = TEXT, *settings: str) -> str:
    with pytest.raises(InvalidInputError) as error:
        load(tmp_path, text, *settings)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}/", "")


def test_the_corpus_decides_the_vocabulary(tmp_path: Path) -> None:
    assert load(tmp_path).shape.vocab_size == 512
    assert load(tmp_path, TEXT, "corpus.vocab_size=1000", "shape.seq_len=64").shape.vocab_size == 1000
    assert "shape.vocab_size: the models have 700" in refused(tmp_path, TEXT, "shape.vocab_size=700")


def test_the_resolved_copy_says_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load(tmp_path)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "campaign.yaml").write_text(resolved_text(spec, "a test"))
    monkeypatch.chdir("/")
    again = load_spec(copy)
    assert again.folder == tmp_path / "results"
    assert again.corpus.source == {name: (str(tmp_path / f"{name}.txt"),) for name in ("prose", "code", "lists")}
    assert again == spec
    written = yaml.safe_load((copy / "campaign.yaml").read_text())
    assert written["training"]["decay_share"] == spec.training.decay_share, "defaults are written out"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("granularity:", "granularty:", "campaign.yaml:7: space.granularty: unknown key 'granularty'; allowed: "),
        ("granularity:", "granularty:", "nearest fix: did you mean granularity?"),
        ("  granularity: {low: 1, high: 4}", "  granularity: {low: 1, hihg: 4}", "did you mean high?"),
        ("  train_flops: 1e12", "  tran_flops: 1e12", "campaign.yaml:15: budget.tran_flops: unknown key"),
        ("  train_flops: 1e12", "  train_flops: -5", "train_flops is -5; allowed: 0 < train_flops"),
        ("  train_flops: 1e12", "  train_flops: lots", "allowed: a number"),
        (
            "name: tiny",
            "workers: {count: -1}\nname: tiny",
            "workers.count: count is -1; allowed: 0 <= count; nearest fix: count = 0",
        ),
        ("name: tiny", "", "campaign.yaml:1: name: the field is missing; nearest fix: add 'name:'"),
        ("  sizes: [20_000]", "  sizes: []", "campaign.yaml:12: ladder.sizes: the ladder is empty"),
        ("  activation_ratio: 0.25", "  activation_ratio: 1.5", "campaign.yaml:8: space.activation_ratio"),
        ("{low: 1, high: 4}", "{low: 4, high: 1}", "low 4 is above high 1"),
        ("{low: 1, high: 4}", "{choices: []}", "choices is empty"),
        ("{low: 1, high: 4}", "wide", "{choices: [...]} or {low: ..., high: ...}"),
        (
            "domains: [prose, code, lists]",
            "{prose: 0.5, code: 0.4}",
            "campaign.yaml:9: space.mixture: the weights sum to 0.9",
        ),
        ("domains: [prose, code, lists]", "{prose: 1.5, code: -0.5}", "space.mixture.code: the weight of code is -0.5"),
        (
            "domains: [prose, code, lists]",
            "domains: [prose, poems]",
            "the corpus has no domain 'poems'; allowed: prose, code",
        ),
        ("name: tiny", "laws: [chinchila]\nname: tiny", "campaign.yaml:1: laws: there is no law 'chinchila'"),
        ("name: tiny", "objective: {weights: {prose: 0.2}}\nname: tiny", "objective.weights: the weights sum to 0.2"),
        ("name: tiny", "seed: 1\nname: tiny\nseed: 2", "campaign.yaml:3: seed is given twice"),
        ("name: tiny", "train_flops: 1e12\nname: tiny", "nearest fix: it belongs to budget.train_flops"),
        ("name: tiny", "name: a/b", "name"),
        ("name: tiny", "training: {precision: fp8}\nname: tiny", "allowed: auto, fp32, bf16; nearest fix: fp32"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    assert says in refused(tmp_path, TEXT.replace(old, new, 1))


def test_a_mistake_on_the_command_line_is_placed_there(tmp_path: Path) -> None:
    assert refused(tmp_path, TEXT, "space.granularty=3").startswith("--set space.granularty: unknown key")
    assert refused(tmp_path, TEXT, "budget.train_flops=0").startswith("--set budget.train_flops: train_flops is 0")


def test_workers_threads_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[TrainingRecipe] = []

    def train(*_: object, recipe: TrainingRecipe, **__: object) -> list[Run]:
        recipes.append(recipe)
        return []

    monkeypatch.setattr(evaluate, "train_proxy", train)
    spec = load(tmp_path, TEXT, "workers.threads=3")
    problem = planned_problem(spec)
    trial = problem.trial(0, initial_design(problem)[0])
    evaluate.make_evaluate(spec, cast(Corpus, None), tmp_path, context="")(trial, lambda *_: None)
    assert [recipe.threads for recipe in recipes] == [3]
    assert spec.training.fingerprint() == load(tmp_path).training.fingerprint(), "keys of runs do not depend on it"
    assert "training.threads is 4 but workers have 2" in refused(
        tmp_path, TEXT, "training.threads=4", "workers.threads=2"
    )


def test_trials_in_flight_belong_to_the_problem_and_workers_do_not(tmp_path: Path) -> None:
    two, many = load(tmp_path, TEXT, "workers.count=2"), load(tmp_path, TEXT, "workers.count=16")
    assert planned_problem(two) == planned_problem(many)
    wide = load(tmp_path, TEXT, "workers.in_flight=16")
    assert planned_problem(wide).lag == 15
    check_unchanged(wide, planned_problem(wide), cast(Corpus, None), pytest.fail)
    with pytest.raises(InvalidInputError, match=r"workers.in_flight: .* started with 4 trials in flight, not 16"):
        check_unchanged(wide, planned_problem(two), cast(Corpus, None), pytest.fail)


def test_another_code_version_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []
    spec = load(tmp_path)
    check_unchanged(spec, planned_problem(spec).replace(code_version="0.0+old"), cast(Corpus, None), said.append)
    assert len(said) == 1
    assert "0.0+old" in said[0]


def test_a_partial_target_shape_is_that_of_a_large_model_for_the_rest(tmp_path: Path) -> None:
    shape = load(tmp_path, TEXT, "target_shape.vocab_size=50_000").target_shape
    assert shape == FULL_SCALE.replace(vocab_size=50_000)
    assert "--set target_shape.hed_dim: unknown key" in refused(tmp_path, TEXT, "target_shape.hed_dim=64")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("space.granularity.low=9", "--set space.granularity.low: low 9 is above high 4"),
        ("corpus.domains=[prose, code]", "--set corpus.domains: the corpus has no domain 'lists'"),
        ("corpus.vocab_size=700", "--set corpus.vocab_size: the models have 512 tokens but the corpus has 700"),
    ],
)
def test_a_setting_that_contradicts_the_file_is_blamed_itself(tmp_path: Path, setting: str, says: str) -> None:
    text = f"{TEXT}shape: {{vocab_size: 512}}\n"
    assert refused(tmp_path, text, "seed=1", setting, "workers.count=1").startswith(says)


def test_the_file_is_blamed_for_its_own_mistakes(tmp_path: Path) -> None:
    wrong = TEXT.replace("low: 1, high: 4", "low: 9, high: 4")
    assert refused(tmp_path, wrong, "seed=1").startswith("campaign.yaml:7: space.granularity: low 9")


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    assert "(and 1 more error)" in refused(
        tmp_path, TEXT.replace("sizes: [20_000]", "sizes: [x]").replace("1e12", "-1")
    )


def possible(tmp_path: Path, *settings: str) -> str:
    for name in ("prose", "code", "lists"):
        (tmp_path / f"{name}.txt").write_text("text")
    with pytest.raises(InvalidInputError) as error:
        check_possible(load(tmp_path, TEXT, *settings))
    return str(error.value)


def test_text_that_is_not_there_is_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "corpus.source.prose: " in possible(tmp_path, "corpus.source.prose=[missing.txt]")
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_is_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is a file, not a folder" in possible(tmp_path, "folder=prose.txt/results")


def test_shapes_without_integers_are_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = possible(tmp_path, "space.granularity=64")
    assert "space.granularity: at 20,000 active parameters" in message
    assert "nearest fix: granularity = " in message
    assert "ladder.sizes" in possible(tmp_path, "shape.d_model_multiple=512")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_possible(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec(preset_path(name))
    check_possible(spec)
    documented = yaml.safe_load(preset_path(name).read_text())
    assert set(documented) >= {"name", "folder", "seed", "corpus", "space", "ladder", "budget", "workers", "target"}


def test_the_quickstart_searches_what_it_promises() -> None:
    spec = load_spec(preset_path("quickstart"))
    assert {"granularity", "activation_ratio", "n_experts", "n_shared_experts", "schedule"} <= set(
        spec.space.free_knobs
    )
    assert len(spec.space.domains) == 8
    assert len(spec.ladder.sizes) >= 3
    assert len(spec.ladder.tokens) >= 3
    assert spec.space.control_kinds.dense
    assert spec.space.control_kinds.random_router
    assert (spec.workers.count, spec.workers.threads) == (2, 1)
