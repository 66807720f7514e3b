"""Where a run was made: the device and the code, as text for the runs table."""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch

import moe_search
from moe_search.proxies.training.recipe import Float32Matmul

PACKAGES = ("spaces", "kernels", "proxies")
"""The packages whose code decides what a proxy's loss is."""


@cache
def code_version() -> str:
    """Return the package's version and 8 hex digits of the sources that training runs through."""
    root = Path(moe_search.__file__).parent
    digest = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        folder = (root / package).resolve()
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".py", ".cpp", ".hpp"}:
                digest.update(f"{package}/{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return f"{moe_search.__version__}+{digest.hexdigest()}"


@cache
def cpu_facts() -> Mapping[str, str]:
    """Return what Linux says of the first CPU (``/proc/cpuinfo``); nothing on other systems."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(errors="replace") if information.exists() else ""
    pairs = [line.partition(":") for line in text.partition("\n\n")[0].splitlines()]
    return MappingProxyType({name.strip(): value.strip() for name, _, value in pairs})


def device_name(device: torch.device, threads: int, float32_matmul: Float32Matmul) -> str:
    """Return the device's product name; a CPU's with the number of threads used, and oneDNN if it made the products."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = cpu_facts().get("model name") or platform.processor() or platform.machine()
    library = ", oneDNN" if float32_matmul == "onednn" else ""
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}{library}"
