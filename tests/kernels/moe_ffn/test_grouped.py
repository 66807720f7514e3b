"""How the grouped backend cuts its experts into waves."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_search.kernels.moe_ffn import grouped, moe_ffn


def test_several_waves_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x, w_up = torch.randn(200, 16, generator=g).requires_grad_(), torch.randn(12, 16, 16, generator=g).requires_grad_()
    w_down, gates = torch.randn(12, 8, 16, generator=g), torch.rand(200, 4, generator=g)
    expert_index = (torch.randn(200, 12, generator=g) + torch.arange(12)).topk(4).indices

    def run() -> tuple[torch.Tensor, ...]:
        out = moe_ffn(x, w_up, w_down, expert_index, gates, backend="grouped")
        return (out.detach(), *torch.autograd.grad(out.square().sum(), (x, w_up)))

    one = run()
    monkeypatch.setattr(grouped, "WAVE_BYTES", 64 * 16 * 4)  # two experts' padded rows of 16 floats
    plan = grouped.plan_routes(expert_index, 12, bytes_per_row=16 * 4)
    assert len(plan.waves) > 3
    assert all(torch.equal(a, b) for a, b in zip(one, run(), strict=True))


@given(st.lists(st.integers(0, 5).map(lambda n: 32 * n), min_size=1, max_size=30), st.integers(1, 300))
def test_waves_cover_experts_and_rows_once(sizes: list[int], max_rows: int) -> None:
    waves = grouped.cut_waves(sizes, max_rows)
    assert [size for wave in waves for size in wave.sizes] == sizes
    assert (waves[0].rows.start, waves[-1].rows.stop) == (0, sum(sizes))
    for wave, following in pairwise(waves):
        assert (wave.experts.stop, wave.rows.stop) == (following.experts.start, following.rows.start)
    for wave in waves:
        assert wave.rows.stop - wave.rows.start == sum(wave.sizes)
        assert sum(wave.sizes) <= max_rows or sum(size > 0 for size in wave.sizes) == 1
