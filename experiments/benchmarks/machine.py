"""Where and when a benchmark was made: what a figure means nothing without."""

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import moe_search
from moe_search.kernels.native.level import chosen_level
from moe_search.proxies.training.precision import choose_products
from moe_search.proxies.training.provenance import device_name


def machine_facts(device: torch.device, *, threads: int, cores: Sequence[int]) -> dict[str, Any]:
    """Return the device, versions and settings of a benchmark that begins now.

    Args:
        device: what is timed.
        threads: of PyTorch.
        cores: that the process is pinned to; empty where it is not.
    """
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device_name(device, threads, choose_products("auto", device)),
        "cpu_level": chosen_level(),
        "threads": threads,
        "pinned_to": list(cores),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "moe_search": moe_search.__version__,
        "system": platform.platform(terse=True),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
