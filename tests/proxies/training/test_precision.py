"""Float32 products by oneDNN are recorded, kept by resumed runs, and refused where they are not float32's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.training import precision
from moe_search.proxies.training.precision import choose_products, float32_products, onednn_products, uses_bfloat16
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.run import train_proxy
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.resolve import Resolved
from moe_search.spaces.run import Run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BATCH = 64


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes this machine one whose CPU is of a vendor and whose oneDNN does something."""

    def be(vendor: str, products: str) -> None:
        monkeypatch.setattr(precision, "cpu_facts", lambda: {"vendor_id": vendor})
        monkeypatch.setattr(precision, "onednn_products", lambda: products)

    return be


@pytest.fixture
def train(corpus: Corpus, resolved: Resolved, recipe: TrainingRecipe) -> Callable[..., Run]:
    def call(folder: Path, on_progress: Callable[[object], None] | None = None, **changes: object) -> Run:
        (run,) = train_proxy(
            resolved,
            horizons=[20 * BATCH],
            corpus=corpus,
            recipe=recipe.replace(**changes),
            seed=0,
            checkpoint_dir=folder,
            on_progress=on_progress,
        )
        return run

    return call


def test_what_is_called_float32_is() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 700, generator=generator), torch.randn(700, 200, generator=generator)
    before = torch.get_float32_matmul_precision()
    with float32_products("onednn"):
        error = float(((a @ b).double() - a.double() @ b.double()).abs().max())
    assert torch.get_float32_matmul_precision() == before
    assert (error < 1e-3) == (onednn_products() != "bfloat16"), error


def test_a_product_of_rounded_factors_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.Tensor.__matmul__

    def amx(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", amx)
    assert onednn_products.__wrapped__() == "bfloat16"
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a.double(), b.double()).to(a.dtype))
    assert onednn_products.__wrapped__() == "unused"


def test_auto_takes_onednn_where_it_gains_and_is_exact(machine: Callable[[str, str], None]) -> None:
    machine("AuthenticAMD", "float32")
    assert choose_products("auto", CPU) == choose_products("onednn", CPU) == "onednn"
    assert choose_products("exact", CPU) == choose_products("auto", CUDA) == "exact"
    machine("GenuineIntel", "float32")
    assert choose_products("auto", CPU) == "exact"
    assert choose_products("onednn", CPU) == "onednn"
    for products in ("bfloat16", "unused"):
        machine("AuthenticAMD", products)
        assert choose_products("auto", CPU) == "exact"


@pytest.mark.parametrize(
    ("products", "device", "message"),
    [("bfloat16", CPU, "round"), ("unused", CPU, "changes nothing"), ("float32", CUDA, "training on a CPU")],
)
def test_onednn_is_refused_where_it_is_not_what_it_says(
    machine: Callable[[str, str], None], products: str, device: torch.device, message: str
) -> None:
    machine("GenuineIntel", products)
    with pytest.raises(InvalidInputError, match=message):
        choose_products("onednn", device)


class Stopped(Exception):
    pass


def test_a_resumed_proxy_keeps_the_products_it_was_begun_with(
    train: Callable[..., Run], machine: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise Stopped

    if onednn_products() != "float32":
        pytest.skip("oneDNN has no exact float32 products on this CPU")
    monkeypatch.setattr("moe_search.proxies.training.leg.PROGRESS_SECONDS", 0.0)
    unbroken = train(tmp_path / "unbroken", float32_matmul="onednn")
    assert unbroken.device.endswith(", oneDNN")
    machine("AuthenticAMD", "float32")
    with pytest.raises(Stopped):
        train(tmp_path / "begun", stop)
    machine("GenuineIntel", "bfloat16")
    with pytest.raises(InvalidInputError, match="begun with oneDNN"):
        train(tmp_path / "begun")
    machine("GenuineIntel", "float32")
    resumed = train(tmp_path / "begun")
    assert resumed.loss == unbroken.loss
    assert resumed.device == unbroken.device
    exact = train(tmp_path / "exact")
    assert exact.device == unbroken.device.removesuffix(", oneDNN")
    assert exact.loss == pytest.approx(unbroken.loss, rel=1e-3)


def test_a_cpu_without_bfloat16_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for facts in ({"flags": "avx2 avx512_bf16"}, {"Features": "asimd bf16"}, {}):
        monkeypatch.setattr(precision, "cpu_facts", lambda facts=facts: facts)
        assert uses_bfloat16("bf16", CPU)
    monkeypatch.setattr(precision, "cpu_facts", lambda: {"flags": "avx2 avx512f"})
    with pytest.warns(UserWarning, match="no bfloat16 instructions"):
        assert uses_bfloat16("bf16", CPU)
    assert not uses_bfloat16("auto", CPU)
    assert not uses_bfloat16("fp32", CUDA)
    assert uses_bfloat16("auto", CUDA)
