"""Timings are paired within rounds, contestants are checked, and what is kept for backward is counted exactly."""

import os
import time

import pytest
import torch

from moe_search.experiments.benchmarks.contestants import Case, Contestant, forget_gradients, run_counting
from moe_search.experiments.benchmarks.measuring import measure
from moe_search.experiments.benchmarks.routing import draw_routing, load
from moe_search.experiments.benchmarks.timing import LEAST_ROUNDS, Spread, interleaved, pinned, ratio
from moe_search.spaces.errors import InvalidInputError

CPU = torch.device("cpu")


def test_every_round_is_fresh_and_runs_everybody_once() -> None:
    log: list[str] = []
    timed = interleaved(
        {name: lambda name=name: log.append(name) for name in "abc"},
        rounds=6,
        fresh=lambda number: log.append(str(number)),
    )
    rounds = [log[start : start + 4] for start in range(0, 24, 4)]
    assert [part[0] for part in rounds] == list("012345")
    assert all(sorted(part[1:]) == ["a", "b", "c"] for part in rounds)
    assert len({tuple(part[1:]) for part in rounds}) > 1, "the order changes"
    assert all(set(one.wall) == set(one.cpu) == set(range(6)) for one in timed.values())


def test_a_slow_contestant_sits_out_and_is_compared_in_its_own_rounds() -> None:
    timed = interleaved({"slow": lambda: time.sleep(0.02), "quick": lambda: None}, rounds=6, patience=0.01)
    assert set(timed["slow"].wall) == set(range(LEAST_ROUNDS))
    assert set(timed["quick"].wall) == set(range(6))
    assert ratio({0: 4.0, 1: 9.0, 2: 2.0}, {0: 2.0, 1: 3.0, 5: 1.0}) == Spread.of([2.0, 3.0])


def test_sleep_takes_the_wall_s_time_and_not_the_thread_s() -> None:
    slept = interleaved({"sleep": lambda: time.sleep(0.05)}, rounds=1)["sleep"]
    assert slept.wall[0] >= 0.05
    assert slept.cpu[0] < 0.05


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_pinning_is_undone_and_too_many_threads_are_refused() -> None:
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinned(1) as cores:
        assert os.sched_getaffinity(0) == set(cores)
        assert torch.get_num_threads() == len(cores) == 1
    assert os.sched_getaffinity(0) == before
    assert torch.get_num_threads() == threads
    with pytest.raises(InvalidInputError, match="--threads"), pinned(len(before) + 1):
        pass


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (64, 8), (256, 16), (4, 4), (1, 1)])
def test_routing_is_uneven_as_a_router_s(n_experts: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, gates = draw_routing(4096, n_experts, top_k, generator=generator)
    second, _ = draw_routing(4096, n_experts, top_k, generator=generator)
    assert n_experts == 1 or not torch.equal(first, second)
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(4096))
    assert all(len(set(row)) == top_k for row in first[:50].tolist())
    hottest = load(first, n_experts)["max_over_mean"]
    assert (1.2 < hottest < 3.2) if n_experts > top_k else hottest == 1.0


@pytest.mark.parametrize(("n_experts", "top_k", "reached"), [(64, 8, 8.0), (256, 16, 8.0), (8, 2, 4.0), (4, 4, 1.0)])
def test_a_skewed_routing_has_one_hot_expert_and_empty_ones(n_experts: int, top_k: int, reached: float) -> None:
    experts, _ = draw_routing(4096, n_experts, top_k, generator=torch.Generator().manual_seed(0), skew=8.0)
    found = load(experts, n_experts)
    assert found["max_over_mean"] == pytest.approx(reached, rel=0.05)
    assert found["empty_experts"] == max(min(n_experts // 4, n_experts - top_k - 1), 0)


def linear(name: str, *, factor: float = 1.0, **changes: object) -> Contestant:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.nn.Parameter(torch.eye(8) * factor)
    return Contestant(name, lambda: x @ weight, leaves=(x, weight), **changes)  # type: ignore[arg-type]


def case(*contestants: Contestant) -> Case:
    return Case("test", {"d_model": 8}, torch.float32, 16, 6.0 * 16 * 8 * 8, "base", contestants)


def test_what_is_kept_for_backward_is_counted_once_and_without_parameters() -> None:
    x, weight = torch.randn(10, 4).requires_grad_(), torch.nn.Parameter(torch.randn(4, 4))

    def forward() -> torch.Tensor:
        h = (x @ weight).reshape(20, 2)  # keeps x; h is a view
        return h * h  # keeps h twice

    assert run_counting(Contestant("", forward, leaves=(x, weight)))[1] == 40 + 40
    assert run_counting(Contestant("", lambda: x.detach() * 2))[1] is None


def test_who_cannot_run_is_named_with_its_reason() -> None:
    def refuse() -> torch.Tensor:
        raise ValueError("x is float32; this backend knows nothing\nand more")

    outcome = measure(
        case(linear("base"), Contestant("proud", refuse), linear("lost", missing="it is not installed")),
        rounds=1,
        threads=1,
        device=CPU,
    )
    assert outcome.absent == {"proud": "x is float32; this backend knows nothing", "lost": "it is not installed"}
    assert [one.name for one in outcome.measured] == ["base"]


def test_ratios_shares_and_errors() -> None:
    peak = Contestant("gemm", lambda: torch.zeros(()), kind="peak", flops=100.0, comparable=False)
    outcome = measure(
        case(linear("base"), linear("wrong", factor=1.5), linear("other", comparable=False), peak),
        rounds=3,
        threads=1,
        device=CPU,
    )
    base, wrong, other = (outcome.of(name) for name in ("base", "wrong", "other"))
    assert base is not None
    assert wrong is not None
    assert other is not None
    assert (base.error, other.error) == (0.0, None)
    assert wrong.error == pytest.approx(0.5)
    assert base.ratios["wrong"].median == pytest.approx(1 / wrong.ratios["base"].median, rel=1e-9)
    assert set(base.ratios) == {"wrong", "other", "gemm"}
    assert base.flops_per_second == base.flops / base.cpu.median
    assert base.share_of_peak is not None
    assert base.share_of_peak > 0
    gemm = outcome.of("gemm")
    assert gemm is not None
    assert gemm.share_of_peak is None


def test_gradients_are_forgotten() -> None:
    one = linear("base")
    one.forward().sum().backward()
    forget_gradients(one)
    assert all(leaf.grad is None for leaf in one.leaves)
