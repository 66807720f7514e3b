"""A machine's table of measured shapes prices plans and trials; without one a few steps set the level."""

from pathlib import Path

import pytest

from moe_search.experiments.calibration import machine_speed, measure
from moe_search.experiments.opening import planned_problem
from moe_search.experiments.pricing import own_price, proxy_device, throughput
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.loading import load_spec
from moe_search.proxies.training.precision import choose_products
from moe_search.proxies.training.provenance import device_name
from moe_search.scaling.throughput import DEFAULT_TABLE, ThroughputTable, read_table, table_path, write_table
from moe_search.search.initial_design import initial_design
from moe_search.spaces.accounting import flops_per_token

CAMPAIGN = """\
name: priced
folder: results
corpus: {source: {prose: [a.txt]}, tokenizer: bytes}
space: {granularity: {low: 1, high: 4}, activation_ratio: 0.25, n_experts: 8, mixture: {prose: 1}}
ladder: {sizes: [12_000, 30_000], tokens: [12_288, 24_576]}
shape: {seq_len: 64, head_dim: 8, d_model_multiple: 8}
training: {batch_tokens: 512, backend: grouped, accelerator: cpu}
budget: {train_flops: 4.5e+10}
target: {train_flops: 1.0e+18}
laws: [chinchilla]
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    monkeypatch.setenv("MOE_SEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    return load_spec(tmp_path / "campaign.yaml")


def own_table(spec: Spec, cache: Path, *, times: float) -> ThroughputTable:
    """Write the package's table, ``times`` slower, as this machine's."""
    device = proxy_device(spec)
    name = device_name(device, 1, choose_products(spec.training.float32_matmul, device))
    package = read_table(DEFAULT_TABLE)
    table = package.replace(
        device=name,
        backend="grouped",
        layers=tuple(row.replace(seconds=times * row.seconds) for row in package.layers),
        steps=tuple(row.replace(seconds=times * row.seconds) for row in package.steps),
    )
    write_table(table_path(cache, name, "grouped"), table)
    return table


def test_a_machine_s_own_table_prices_plan_and_trials(spec: Spec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert own_price(spec, cache) is None
    own_table(spec, cache, times=3.0)
    price = own_price(spec, cache)
    assert price is not None
    assert [batch for _, batch in price.batches] == [512, 512]

    problem = planned_problem(spec).replace(price=price)
    (proposal, *_) = initial_design(problem)
    resolved = problem.resolved(proposal.design, proposal.scale)
    seconds, said = machine_speed(spec, problem, log=pytest.fail)
    assert said == "by this machine's table of measured shapes"
    package, is_own = throughput(spec, tmp_path / "elsewhere")
    assert package is not None
    assert not is_own
    flops = problem.cost(proposal.design, proposal.scale)
    tokens = flops / flops_per_token(resolved.architecture).train
    expected = 3 * tokens * package.seconds_per_token(resolved.architecture, batch_tokens=512)
    assert seconds(resolved, flops) == pytest.approx(expected, rel=0.02)
    assert problem.trial(0, proposal).predicted_seconds == pytest.approx(seconds(resolved, flops))
    unpriced = problem.replace(price=None).trial(0, proposal)
    assert unpriced.predicted_seconds is None
    assert unpriced.run_key == problem.trial(0, proposal).run_key
    assert initial_design(problem.replace(price=None)) == initial_design(problem), "no proposal depends on it"


def test_without_one_a_few_steps_set_the_level(spec: Spec) -> None:
    problem, said = planned_problem(spec), list[str]()
    seconds, words = machine_speed(spec, problem, log=said.append)
    assert said == ["timing a few training steps on this machine"]
    assert "just now" in words
    for step in measure(spec, problem):
        flops = flops_per_token(step.resolved.architecture).train * step.tokens
        assert 0.1 < seconds(step.resolved, flops) / step.seconds < 10
