"""The Triton backend where there is no GPU: its kernels in Triton's interpreter, and what it says when it cannot run.

Triton reads TRITON_INTERPRET when it is imported, and every torch process may have imported it, so the checks of
``tests/gpu/test_moe_ffn.py`` run in a process of their own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moe_search.kernels.moe_ffn import ACTIVATIONS
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn, why_not

CHECKS = Path(__file__).parents[2] / "gpu" / "test_moe_ffn.py"
TRITON = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not TRITON, reason="needs the package triton (no GPU)")
def test_kernels_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", str(CHECKS)],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "PYTEST_ADDOPTS": ""},
        cwd=CHECKS.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
from moe_search.kernels.moe_ffn import ACTIVATIONS, moe_ffn
from moe_search.kernels.moe_ffn.triton import triton_moe_ffn
x, w, index, gates = torch.ones(2, 4), torch.ones(3, 4, 4), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
arguments = x, w, w, index, gates
moe_ffn(*arguments, activation="gelu")
try:
    triton_moe_ffn(*arguments, activation=ACTIVATIONS["gelu"])
except ValueError as error:
    print(error)
"""


def test_everything_else_works_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "backend 'triton' is not available: the package triton is not installed"


def test_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert why_not("cuda", torch.bfloat16) == ""
    assert "cuda, not cpu" in why_not("cpu", torch.float32)
    assert "not torch.float64" in why_not("cuda", torch.float64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton is not installed" in why_not("cuda", torch.float32)


def test_refuses_tensors_it_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, w, index, gates = torch.zeros(2, 4), torch.zeros(3, 4, 4), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"^backend 'triton' is not available"):
        triton_moe_ffn(x, w, w, index, gates, activation=ACTIVATIONS["gelu"])
