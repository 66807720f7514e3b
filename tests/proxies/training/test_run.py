"""Exactness: of branches, of repetition, of resuming; and what happens when training does not go well."""

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.model import build_model
from moe_search.proxies.model.layers import Projection
from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training import leg, run
from moe_search.proxies.training.module import ProxyModule
from moe_search.proxies.training.optimizer import build_optimizer
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.run import Progress, train_proxy
from moe_search.proxies.training.schedule import Horizon, branch_rate, trunk_rate
from moe_search.spaces.accounting import train_flops
from moe_search.spaces.architecture import Routing
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved
from moe_search.spaces.run import Run

BATCH = 64
HORIZONS = (10 * BATCH, 15 * BATCH, 20 * BATCH)
BRANCH_STEPS = (8, 12, 16)
WORK = 16 + 2 + 3 + 4
"""Steps of the trunk and of the branches."""
TIMINGS = {"wall_seconds", "tokens_per_second"}

State = dict[str, Tensor]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The parameters and buffers of every model that is evaluated."""
    states: list[State] = []
    evaluate = run.evaluate

    def recording(model: torch.nn.Module, *args: object, **kwargs: object) -> object:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "evaluate", recording)
    return states


@pytest.fixture
def train(corpus: Corpus, resolved: Resolved, recipe: TrainingRecipe) -> Callable[..., list[Run]]:
    def call(**changes: object) -> list[Run]:
        arguments = {"horizons": HORIZONS, "corpus": corpus, "recipe": recipe, "seed": 0, **changes}
        return train_proxy(arguments.pop("resolved", resolved), **arguments)  # type: ignore[arg-type]

    return call


def assert_equal_bits(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def facts(run: Run, *leave_out: str) -> dict[str, object]:
    return run.model_dump(exclude=TIMINGS | set(leave_out))


def test_trunk_and_branch_equal_a_run_trained_to_that_horizon_alone(
    train: Callable[..., list[Run]], measured: list[State]
) -> None:
    together = train()
    for number, horizon in enumerate(HORIZONS):
        (alone,) = train(horizons=[horizon])
        assert facts(alone, "paid_flops") == facts(together[number], "paid_flops")
        assert_equal_bits(measured[-1], measured[number])


@pytest.mark.parametrize("micro_batch_tokens", [None, 32])
def test_trunk_and_branch_equal_a_plain_loop(
    corpus: Corpus,
    resolved: Resolved,
    recipe: TrainingRecipe,
    measured: list[State],
    micro_batch_tokens: int | None,
) -> None:
    recipe = recipe.replace(micro_batch_tokens=micro_batch_tokens, float32_matmul="exact")
    train_proxy(resolved, horizons=HORIZONS, corpus=corpus, recipe=recipe, seed=3)

    horizon = Horizon(wanted_tokens=HORIZONS[-1], steps=20, branch_step=16)
    model = build_model(resolved.architecture, seed=3)
    optimizer = build_optimizer(model, recipe, 0.01)
    stream = MixtureStream(corpus, resolved.design.mixture, batch_sequences=4, seq_len=16, seed=3)
    for step in range(20):
        rate = trunk_rate(step, 3) if step < 16 else branch_rate(step, horizon, "sqrt")
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        optimizer.zero_grad()
        for tokens in stream.batch(step).tokens.split(2 if micro_batch_tokens else 4):
            output = model.loss(tokens)
            ((output.loss + output.auxiliary_loss) * (len(tokens) / 4)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.end_step()
    assert_equal_bits(measured[-1], model.state_dict())


def test_one_seed_gives_one_result_and_another_another(train: Callable[..., list[Run]], measured: list[State]) -> None:
    first, second, third = train(), train(), train(seed=1)
    assert [facts(run) for run in first] == [facts(run) for run in second]
    assert_equal_bits(measured[2], measured[5])
    assert first[-1].loss != third[-1].loss


def test_dense_models_and_auxiliary_losses_train(
    train: Callable[..., list[Run]], resolved_with: Callable[[Routing], Resolved], recipe: TrainingRecipe
) -> None:
    (routed,) = train(resolved=resolved_with(Routing()), horizons=[100 * BATCH])
    assert routed.loss is not None
    assert routed.unigram_loss is not None
    assert routed.loss < routed.unigram_loss - 0.5
    assert len(routed.expert_load) == 2
    assert all(abs(sum(layer) - 1) < 1e-9 for layer in routed.expert_load)


def test_bf16_autocast_trains_to_about_the_same_loss(train: Callable[..., list[Run]], recipe: TrainingRecipe) -> None:
    (exact,) = train(horizons=[20 * BATCH])
    (rounded,) = train(horizons=[20 * BATCH], recipe=recipe.replace(precision="bf16"))
    assert exact.loss is not None
    assert exact.unigram_loss is not None
    assert rounded.loss is not None
    assert rounded.loss != exact.loss
    learned = exact.unigram_loss - exact.loss
    assert abs(rounded.loss - exact.loss) < 0.15 * learned  # later, runs that differ in a bit drift apart by as much


def test_a_compiled_step_is_the_same_step(
    train: Callable[..., list[Run]],
    recipe: TrainingRecipe,
    measured: list[State],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []
    compile_with = torch.compile

    def tracing(function: Callable[..., object], **options: object) -> object:  # machine code takes minutes
        compiled.append(function)
        return compile_with(function, backend="eager", **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", tracing)
    train(horizons=[HORIZONS[0]])
    assert not compiled
    train(horizons=[HORIZONS[0]], recipe=recipe.replace(compile=True))
    assert len(compiled) == 2, "trunk and branch"
    assert_equal_bits(*measured)


def test_in_bf16_only_the_products_are(
    train: Callable[..., list[Run]], recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, others = set(), set()
    training_step, project = ProxyModule.training_step, Projection.forward

    def watching(self: ProxyModule, *args: object) -> Tensor:
        loss = training_step(self, *args)  # type: ignore[arg-type]
        moments = self.trainer.optimizers[0].state_dict()["state"].values()
        learning = [tensor for weight in self.model.parameters() for tensor in (weight, weight.grad)]
        others.update(tensor.dtype for tensor in (loss, *learning, *(m for state in moments for m in state.values())))
        return loss

    def projecting(self: Projection, x: Tensor) -> Tensor:
        out = project(self, x)
        products.add(out.dtype)
        return out

    monkeypatch.setattr(ProxyModule, "training_step", watching)
    monkeypatch.setattr(Projection, "forward", projecting)
    train(horizons=[HORIZONS[0]], recipe=recipe.replace(precision="bf16"))
    assert products == {torch.bfloat16}
    assert others == {torch.float32}


def test_a_run_says_what_was_trained_and_what_it_cost(train: Callable[..., list[Run]], resolved: Resolved) -> None:
    runs = train(trial=7, context="here")
    assert [run.tokens for run in runs] == list(HORIZONS)
    assert {run.status for run in runs} == {"finished"}
    assert {run.trial for run in runs} == {7}
    assert len({run.run_key for run in runs}) == 3
    assert all(set(run.domain_bpb) == {"abc", "mno", "xyz"} for run in runs)
    whole = train_flops(resolved.architecture, 1) * BATCH
    assert [run.train_flops for run in runs] == pytest.approx([10 * whole, 15 * whole, 20 * whole])
    assert [run.paid_flops for run in runs] == pytest.approx([2 * whole, 3 * whole, 20 * whole])
    assert all(run.wall_seconds and run.tokens_per_second for run in runs)
    assert runs[-1].epochs["abc"] == pytest.approx(2 * runs[-1].epochs["mno"], rel=0.05)


def test_progress_rises_to_the_total_and_ends_every_branch_with_its_run(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg, "PROGRESS_SECONDS", 0.0)
    reports: list[Progress] = []
    runs = train(on_progress=reports.append)
    assert [report.run for report in reports if report.run] == runs
    assert {report.total_tokens for report in reports} == {BATCH * WORK}
    assert [report.tokens for report in reports] == [BATCH * step for step in range(1, WORK + 1) if step != 16]
    assert [report.position for report in reports if report.stage != "trunk"] == [
        BATCH * step for step in (9, 10, 13, 14, 15, 17, 18, 19, 20)
    ]


class Crash(Exception):
    pass


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes training die in the middle of the ``n``-th step from now."""
    remaining = [10**9]
    training_step = ProxyModule.training_step

    def dying(self: ProxyModule, *args: object) -> Tensor:
        remaining[0] -= 1
        if remaining[0] == 0:
            raise Crash
        return training_step(self, *args)  # type: ignore[arg-type]

    def arm(steps: int) -> None:
        remaining[0] = steps

    monkeypatch.setattr(ProxyModule, "training_step", dying)
    return arm


@pytest.mark.parametrize("seed", range(3))
def test_stopped_from_on_progress_at_random_steps_a_run_ends_as_if_unbroken(
    train: Callable[..., list[Run]],
    measured: list[State],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    unbroken = train()
    generator = random.Random(seed)
    monkeypatch.setattr(leg, "PROGRESS_SECONDS", 0.0)
    seen: list[int] = []

    def stop(report: Progress) -> None:
        seen.append(report.tokens)
        if len(seen) == 2 or generator.random() < 0.25:
            raise Crash

    stops = 0
    while True:
        try:
            runs = train(checkpoint_dir=tmp_path, on_progress=stop)
        except Crash:
            stops += 1
        else:
            break
    assert stops > 0
    assert [facts(run) for run in runs] == [facts(run) for run in unbroken]
    assert_equal_bits(measured[2], measured[-1])
    assert seen == sorted(seen), "what on_progress interrupts is kept, so no step is made twice"


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 0.02, 100.0])
def test_killed_in_the_middle_of_random_steps_a_run_ends_as_if_unbroken(
    train: Callable[..., list[Run]],
    recipe: TrainingRecipe,
    measured: list[State],
    crashing: Callable[[int], None],
    tmp_path: Path,
    checkpoint_seconds: float,
) -> None:
    unbroken = train()
    generator = random.Random(0)
    crashes = 0
    while True:
        crashing(generator.randint(2, 40) if crashes else 7)
        try:
            runs = train(checkpoint_dir=tmp_path, recipe=recipe.replace(checkpoint_seconds=checkpoint_seconds))
        except Crash:
            crashes += 1
        else:
            break
    assert crashes > 0
    assert [facts(run) for run in runs] == [facts(run) for run in unbroken]
    assert_equal_bits(measured[2], measured[-1])


def test_a_lost_starting_point_is_made_again(
    train: Callable[..., list[Run]], crashing: Callable[[int], None], tmp_path: Path
) -> None:
    unbroken = train()
    crashing(17)
    with pytest.raises(Crash):
        train(checkpoint_dir=tmp_path)
    (tmp_path / "start-00000015.safetensors").write_bytes(b"spoilt")
    with pytest.warns(UserWarning, match="cannot be read"):
        runs = train(checkpoint_dir=tmp_path)
    assert [facts(run) for run in runs] == [facts(run) for run in unbroken]


def test_what_is_finished_is_not_trained_again_and_leaves_no_tensors(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = train(checkpoint_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "proxy.json",
        "result-00000010.json",
        "result-00000015.json",
        "result-00000020.json",
    ]

    def untouched(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(run, "fit_leg", untouched)
    assert train(checkpoint_dir=tmp_path) == first


def test_the_folder_of_another_seed_is_refused(train: Callable[..., list[Run]], tmp_path: Path) -> None:
    train(checkpoint_dir=tmp_path, horizons=HORIZONS[:1])
    with pytest.raises(InvalidInputError, match="another proxy"):
        train(checkpoint_dir=tmp_path, horizons=HORIZONS[:1], seed=1)


def test_a_trunk_that_diverges_keeps_the_horizons_before(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resolved: Resolved
) -> None:
    unbroken = train()
    monkeypatch.setattr(run, "trunk_rate", lambda step, warmup_steps: 1e30 if step == 12 else trunk_rate(step, 3))
    runs = train(checkpoint_dir=tmp_path)
    assert [run.status for run in runs] == ["finished", "finished", "diverged"]
    assert [facts(run) for run in runs[:2]] == [facts(run) for run in unbroken[:2]]
    assert "nan at step 15" in runs[2].message
    assert runs[2].loss is None
    assert runs[2].paid_flops == pytest.approx(train_flops(resolved.architecture, 15 * BATCH))
    assert train(checkpoint_dir=tmp_path) == runs


def test_a_branch_that_diverges_spoils_no_other(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train()
    monkeypatch.setattr(
        run,
        "branch_rate",
        lambda step, horizon, shape: 1e30 if step == 8 else branch_rate(step, horizon, shape),
    )
    runs = train()
    assert [run.status for run in runs] == ["diverged", "finished", "finished"]
    assert [facts(run) for run in runs[1:]] == [facts(run) for run in unbroken[1:]]


def test_a_rate_far_too_high_is_recognised_by_the_loss(train: Callable[..., list[Run]], recipe: TrainingRecipe) -> None:
    (result,) = train(recipe=recipe.replace(learning_rate=30.0), horizons=[60 * BATCH])
    assert result.status == "diverged"
    assert "loss" in result.message


def test_out_of_memory_is_a_row_and_may_be_tried_again(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: ProxyModule, *_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(ProxyModule, "training_step", full)
        runs = train(checkpoint_dir=tmp_path)
    assert {run.status for run in runs} == {"oom"}
    assert runs[0].message == "out of memory on cpu: CUDA out of memory. Tried to allocate 1 GiB"
    assert {run.status for run in train(checkpoint_dir=tmp_path)} == {"finished"}


def test_other_errors_are_not_swallowed(train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: ProxyModule, *_: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ProxyModule, "training_step", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train()


def test_ctrl_c_reaches_the_caller_and_still_works_afterwards(
    train: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leg, "PROGRESS_SECONDS", 0.0)

    def press(_: Progress) -> None:
        signal.raise_signal(signal.SIGINT)

    # A process started in the background of a script ignores SIGINT from birth; here it is to mean Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(on_progress=press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_settings_are_put_back_and_nothing_is_said(
    train: Callable[..., list[Run]],
    recipe: TrainingRecipe,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.random.get_rng_state().sum().item(),
            logging.getLogger("pytorch_lightning").level,
        )

    torch.set_num_threads(2)
    before = settings()
    train(recipe=recipe.replace(threads=1), horizons=HORIZONS[:1])
    assert settings() == before
    torch.set_num_threads(1)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_proxy_leaves_no_garbage_even_after_one_that_failed(
    train: Callable[..., list[Run]], crashing: Callable[[int], None]
) -> None:
    crashing(3)
    with pytest.raises(Crash):
        train()
    train(horizons=HORIZONS[:1])
    assert not len(run._LIVING)
    assert gc.get_freeze_count() == 0


def test_impossible_requests_leave_no_folder(
    train: Callable[..., list[Run]], resolved: Resolved, tmp_path: Path
) -> None:
    folder = tmp_path / "proxy"
    wrong = resolved.replace(architecture=resolved.architecture.replace(vocab_size=99))
    design = resolved.design.replace(mixture=Mixture.uniform(("abc", "nowhere")))
    for changes in (
        {"horizons": [BATCH]},
        {"horizons": []},
        {"resolved": wrong},
        {"resolved": resolved.replace(design=design)},
    ):
        with pytest.raises(InvalidInputError):
            train(checkpoint_dir=folder, **changes)
    assert not folder.exists()


KILLS = 4
KILLED = """
import sys
import time
from pathlib import Path
import torch
from moe_search.proxies.corpus import open_corpus
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.run import train_proxy
from moe_search.spaces.resolve import Resolved

root, folder, resolved, recipe = sys.argv[1:]
step = torch.optim.AdamW.step


def slow_step(*arguments, **keywords):
    time.sleep(0.01)  # however fast the machine, training outlasts the kills
    return step(*arguments, **keywords)


torch.optim.AdamW.step = slow_step
train_proxy(
    Resolved.model_validate_json(resolved),
    horizons=[300 * 64, 400 * 64],
    corpus=open_corpus(Path(root)),
    recipe=TrainingRecipe.model_validate_json(recipe),
    seed=0,
    checkpoint_dir=Path(folder),
)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_and_starting_again_gives_the_unbroken_runs(
    train: Callable[..., list[Run]], corpus: Corpus, resolved: Resolved, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    recipe = recipe.replace(checkpoint_seconds=0.05)
    horizons = [300 * BATCH, 400 * BATCH]
    folder = tmp_path / "proxy"
    generator = random.Random(os.getpid())
    command = [sys.executable, "-c", KILLED, str(corpus.root), str(folder)]
    command += [resolved.model_dump_json(), recipe.model_dump_json()]
    for kill in range(KILLS + 1):
        before = set(folder.glob("*.*"))
        process = subprocess.Popen(command)
        if kill == KILLS:
            assert process.wait() == 0
            break
        while set(folder.glob("*.*")) == before:  # it is still importing
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(generator.uniform(0.0, 0.3))
        assert process.poll() is None
        process.kill()
        process.wait()
    unbroken = train(horizons=horizons)
    assert [facts(run) for run in train(horizons=horizons, checkpoint_dir=folder, recipe=recipe)] == [
        facts(run) for run in unbroken
    ]
