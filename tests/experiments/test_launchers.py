"""How a campaign's workers are started, asked to stop and ended, as far as the application decides it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from moe_search.experiments.cli.app import app
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.draining import sigterm_as_ctrl_c
from moe_search.experiments.evaluate import Stop
from moe_search.experiments.spec.campaign import Workers
from moe_search.search.launchers import launcher_names, make_launcher, options_class
from moe_search.search.launching import MARGIN_SECONDS, Code, Crew
from moe_search.spaces.errors import InvalidInputError

HANGS = """\
import time
from moe_search.experiments.draining import leave_within
from moe_search.experiments.evaluate import Stop

stop = Stop()
stop.listen()
leave_within(0.3, stop)
print("up", flush=True)
while True:
    time.sleep(10)
"""


def test_every_launcher_has_a_block_of_its_own_options() -> None:
    assert {"local", "ray", "slurm"} <= set(launcher_names())
    workers = Workers()
    for name in launcher_names():
        chosen = Workers(launcher=name)
        assert chosen.options == options_class(name)()
        assert getattr(workers, name) == chosen.options


def test_an_unknown_launcher_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"there is no launcher 'slrm'; allowed: local, ray, slurm; nearest fix: slurm"
    ):
        Workers(launcher="slrm")


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_without_its_package_says_what_to_install(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    crew = Crew(name="tiny", arguments=(), folder=tmp_path, logs=tmp_path)
    with pytest.raises(
        InvalidInputError, match=rf"{package}, which is not installed.*pip install 'moe-search\[{name}\]'"
    ):
        make_launcher(name, options_class(name)(), crew)


def test_workers_exit_with_the_codes_that_launchers_know() -> None:
    assert (Code.DONE, Code.USAGE, Code.INTERRUPTED) == (ExitCode.DONE, ExitCode.USAGE, ExitCode.INTERRUPTED)


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_scheduler_may_ask_twice_and_a_person_is_impatient(number: signal.Signals) -> None:
    stop = Stop()
    stop.listen()
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_run_takes_sigterm_as_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_cannot_stop_is_gone_when_its_grace_period_is_over() -> None:
    worker = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "up\n"
    asked = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == ExitCode.INTERRUPTED
    assert time.monotonic() - asked >= 0.3
    worker.stdout.close()


def test_the_manual_shows_workers_that_are_valid_and_a_manifest_that_runs_the_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "several-machines.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    shown = [Workers.model_validate(block["workers"]) for block in blocks if "workers" in block]
    assert {workers.launcher for workers in shown} == {"ray", "slurm"}
    (job,) = (block for block in blocks if block.get("apiVersion") == "batch/v1")
    assert job["kind"] == "Job"
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in {"OnFailure", "Never"}, "all that a Job allows"
    assert pod["terminationGracePeriodSeconds"] >= Workers().grace_seconds + MARGIN_SECONDS
    (container,) = pod["containers"]
    program, verb, folder = container["command"]
    assert program == "moe-search"
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, [folder]).params["spec"] == Path(folder)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert any(folder.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
