"""From the machine's table of measured shapes to the price of a campaign's trials."""

from pathlib import Path

import torch

from moe_search.experiments.spec.campaign import Spec
from moe_search.kernels.moe_ffn import default_backend
from moe_search.proxies.training.precision import choose_products, uses_bfloat16
from moe_search.proxies.training.provenance import device_name
from moe_search.proxies.training.recipe import batch_tokens
from moe_search.scaling.throughput import Throughput, fit_throughput, known_table
from moe_search.search.price import Price


def proxy_device(spec: Spec) -> torch.device:
    """Return what the campaign's proxies train on here."""
    wants_cuda = spec.training.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if wants_cuda else "cpu")


def throughput(spec: Spec, cache: Path) -> tuple[Throughput | None, bool]:
    """Return the throughput of the campaign's type, threads and backend, and whether it was measured on this machine.

    Args:
        spec: the campaign.
        cache: the cache folder.

    Raises:
        InvalidInputError: the machine's table is damaged.
    """
    device = proxy_device(spec)
    dtype = torch.bfloat16 if uses_bfloat16(spec.training.precision, device) else torch.float32
    products = choose_products(spec.training.float32_matmul, device)
    backend = spec.training.backend
    if backend == "auto":
        backend = default_backend(device.type, dtype)[0]
    table, is_own = known_table(cache, device_name(device, spec.workers.threads, products), backend)
    return fit_throughput(table, dtype=str(dtype).removeprefix("torch.")), is_own


def pass_tokens(spec: Spec, n_active: int) -> int:
    """Return the tokens of one forward pass of a proxy."""
    batch = batch_tokens(spec.training, n_active=n_active, seq_len=spec.shape.seq_len)
    return min(batch, spec.training.micro_batch_tokens or batch)


def own_price(spec: Spec, cache: Path) -> Price | None:
    """Return the price of trials by the machine's own table; None where it has none for this campaign.

    Raises:
        InvalidInputError: the table is damaged.
    """
    measured, is_own = throughput(spec, cache)
    if measured is None or not is_own:
        return None
    batches = tuple((round(size), pass_tokens(spec, round(size))) for size in spec.ladder.sizes)
    return Price(throughput=measured, batches=batches)
