"""Ctrl-C at any moment of a command, from its first import on: 130, and no traceback."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_search.experiments.cli.app import app

A_VERB_BEGINS = (
    "name.startswith('moe_search.') and '.cli.' not in name and 'moe_search.experiments.cli.app' in sys.modules"
)
VERBS = [str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands]
ARGUMENTS = {
    "init": ["new"],
    "corpus": ["show", "campaign.yaml"],
    "count": ["Qwen3-30B-A3B"],
    "export": ["hf", "Qwen3-30B-A3B", "-o", "exported"],
    "fit": ["runs.csv", "--law", "chinchilla"],
    "import": ["csv", "runs.csv", "-o", "runs.parquet"],
    "bench": ["step"],
    "doctor": [],
}
"""Of verbs that take other arguments than a file."""
OWN_COMMAND = """\
import _thread, atexit, os, signal, sys, threading, time
from moe_search.experiments.cli.interrupts import UNATTENDED, Interrupts, leave_unattended

def press():
    os.kill(os.getpid(), signal.SIGINT)

def wait():
    for _ in range(6000):
        time.sleep(0.01)

def left_at_work():
    threading.Thread(target=wait, name=f"{{UNATTENDED}}: something", daemon=True).start()
    atexit.register(print, "the interpreter shut down around it")
    print("at work")

class Deleted:
    def __del__(self):
        press()

def main():
    interrupts = Interrupts(main.__code__)
    interrupts.listen()
    try:
        {work}
    except KeyboardInterrupt:
        assert interrupts.asked
        print("in good order", flush=True)
    interrupts.end()
    {end}

main()
"""
"""A command that presses Ctrl-C itself, where it likes."""


def ended(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    """Return exit code, stdout, stderr; a command that does not end is a failure."""
    try:
        out, said = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, said


@pytest.mark.parametrize("verb", VERBS)
def test_as_any_verb_begins_to_import(verb: str, watched: Any, tmp_path: Path) -> None:
    process = watched(
        verb, *ARGUMENTS.get(verb, ["campaign.yaml"]), folder=tmp_path, press_when=A_VERB_BEGINS, as_script=True
    )
    assert ended(process) == (130, "!", "")


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        ("count", "typer"),
        ("worker", "pydantic_core._pydantic_core"),
        ("worker", "numpy"),
        ("worker", "numpy._core._multiarray_umath"),  # makes an ImportError of an interruption
        ("run", "torch._C"),
        ("run", "torch.nn"),
        ("run", "optuna"),
    ],
)
def test_while_a_module_is_imported(verb: str, module: str, watched: Any, tmp_path: Path) -> None:
    process = watched(verb, "campaign.yaml", folder=tmp_path, press_when=f"name == {module!r}")
    assert ended(process) == (130, "!", "")


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5, 1.0, 2.0])
def test_at_some_moment_after_the_start(seconds: float, new_campaign: Any, watched: Any) -> None:
    """What such a moment hits differs between machines; what comes out must not."""
    process = watched("run", "campaign.yaml", folder=new_campaign(budget=1.4e10).folder)
    assert process.stdout.read(1) == "!"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    code, _, said = ended(process)
    assert code == 130, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("work", "end", "code", "out"),
    [
        ("press(); wait()", "", 0, "in good order"),
        ("import slow; wait()", "", 0, "imported whole\nin good order"),
        ("Deleted(); wait()", "", 0, "in good order"),
        ("pass", "press(); wait()", 130, ""),
        ("pass", "threading.Thread(target=lambda: (press(), wait())).start()", 130, ""),
        ("pass", "left_at_work(); sys.exit(leave_unattended(7))", 7, "at work"),
        ("pass", "atexit._run_exitfuncs(); press(); print('all the same')", 0, "all the same"),
    ],
)
def test_what_is_interrupted_comes_to_an_end_in_good_order(
    work: str, end: str, code: int, out: str, tmp_path: Path, hears_ctrl_c: Callable[[], None]
) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "except BaseException:\n"
        "    raise ImportError('as extension modules say') from None\n"
        "print('imported whole')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_COMMAND.format(work=work, end=end)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,  # noqa: PLW1509 - no threads here
    )
    assert ended(process) == (code, out and f"{out}\n", "")


def test_where_sigint_is_ignored_from_birth_it_stays_ignored(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_COMMAND.format(work="press()", end="press(); print('all the same')")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - no threads here
    )
    assert ended(process) == (0, "all the same\n", "")
