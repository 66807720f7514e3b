"""Where a run was made: the device and the code, as text for the runs table."""

import hashlib
import platform
from functools import cache
from pathlib import Path

import torch

import moe_search

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
def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device, threads: int) -> str:
    """Return the device's product name; a CPU's with the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"
