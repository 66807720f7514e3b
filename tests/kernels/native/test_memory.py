"""Freed blocks are used again without new page faults."""

import subprocess
import sys

import pytest

from moe_search.kernels.native.memory import keep_freed_memory

COUNT = """
import resource, torch
from moe_search.kernels.native.memory import keep_freed_memory
assert keep_freed_memory()
for _ in range(20):  # the heap finds its size
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)  # 64 MiB: more than glibc ever keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_large_blocks_are_kept() -> None:
    said = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, timeout=120)
    pages = 2**26 // 4096
    assert int(said.stdout) < 3 * pages  # ten mappings are ten times the pages
