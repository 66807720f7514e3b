"""Small campaigns on real proxies, whose workers a Ray cluster and a SLURM cluster start, lose and preempt.

Only with ``MOE_SEARCH_CHAOS=full``: each takes a minute or two. Every trial that was interrupted goes on from its
checkpoint, and the runs table is, to the last bit, that of a campaign on local workers.
"""

import importlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("MOE_SEARCH_CHAOS") != "full", reason="MOE_SEARCH_CHAOS=full runs it"),
]
GIVE_UP_SECONDS = 600
BUDGET = 1.0e11
SPEC = """\
name: launched
folder: results
corpus:
  source: {{prose: [{text}/prose], code: [{text}/code]}}
  vocab_size: 512
space:
  granularity: {{low: 1, high: 2}}
  activation_ratio: {{choices: [0.25, 0.5]}}
  n_experts: {{choices: [4, 8]}}
  mixture: {{domains: [prose, code], floor: 0.1}}
ladder:
  sizes: [12_000, 30_000]
  tokens: [49_152, 98_304]
shape: {{seq_len: 64, head_dim: 8, d_model_multiple: 8}}
training: {{batch_tokens: 512, warmup_steps: 4, evaluation_tokens: 1024, checkpoint_seconds: 0.1}}
budget: {{train_flops: {budget}}}
search: {{stop: false}}
workers: {{count: 2}}
target: {{train_flops: 1.0e+18}}
laws: [chinchilla]
tracking: {{enabled: false}}
"""


class Campaign:
    """A folder with a file in it, and the command that runs it."""

    def __init__(self, folder: Path, text: Path, cache: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        folder.mkdir()
        (folder / "campaign.yaml").write_text(SPEC.format(text=text, budget=BUDGET))
        self.environment = os.environ | {"MOE_SEARCH_CACHE": str(cache), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def start(self, *settings: str) -> subprocess.Popen[str]:
        options = [word for setting in settings for word in ("--set", setting)]
        with (self.folder / "said.log").open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "moe_search", "run", "campaign.yaml", *options],
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        return (self.folder / "said.log").read_text()

    def table(self) -> list[tuple[object, ...]]:
        frame = pl.read_parquet(self.results / "runs.parquet").sort("trial", "tokens")
        return frame.select("trial", "run_key", "tokens", "status", "train_flops", "bpb", "loss").rows()

    def failures(self) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-m", "moe_search", "status", "campaign.yaml", "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)["failures"]


def until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not condition():
        assert process is None or process.poll() is None, "the command has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(campaign: Campaign) -> dict[int, int]:
    """Return the worker processes of a campaign, each with its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            if b"worker" in words and os.fsencode(campaign.results / "campaign.yaml") in words:
                stat = (path.parent / "stat").read_text().rpartition(")")[2].split()
                found[int(path.parent.name)] = int(stat[1])
        except OSError:
            continue
    return found


def checkpoints(campaign: Campaign) -> set[str]:
    return {path.parent.name for path in (campaign.results / "checkpoints").glob("*/*") if path.is_file()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``prose`` and ``code`` of some hundred kB each, of what every Python has."""
    root = tmp_path_factory.mktemp("text")
    topics = importlib.import_module("pydoc_data.topics").topics
    for domain in ("prose", "code"):
        (root / domain).mkdir()
    for name, topic in topics.items():
        (root / "prose" / f"{name.replace('/', '_')}.txt").write_text(topic)
    for module in ("argparse", "typing", "ast", "inspect", "enum", "pathlib", "subprocess", "tarfile", "zipfile"):
        source = Path(str(importlib.import_module(module).__file__)).read_text()
        for start in range(0, len(source), 8000):
            (root / "code" / f"{module}-{start}.txt").write_text(source[start : start + 8000])
    return root


@pytest.fixture(scope="module")
def new_campaign(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[[str], Campaign]:
    root = tmp_path_factory.mktemp("campaigns")
    return lambda name: Campaign(root / name, text, root / "cache")


@pytest.fixture(scope="module")
def undisturbed(new_campaign: Callable[[str], Campaign]) -> list[tuple[object, ...]]:
    """The table of the same campaign on local workers."""
    campaign = new_campaign("local")
    assert campaign.start().wait(GIVE_UP_SECONDS) == 0, campaign.said()
    return campaign.table()


def report(name: str, **figures: object) -> None:
    if path := os.environ.get("MOE_SEARCH_CHAOS_FIGURES"):
        with Path(path).open("a") as file:
            print(json.dumps({"test": name} | figures), file=file)


def test_a_ray_node_dies_and_its_trial_goes_on_elsewhere(
    new_campaign: Callable[[str], Campaign], undisturbed: list[tuple[object, ...]]
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    cluster_utils = importlib.import_module("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    began = time.monotonic()
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        campaign = new_campaign("ray")
        process = campaign.start("workers.launcher=ray", f"workers.ray.address={cluster.address}")
        until(lambda: len(workers_of(campaign)) == 2 and len(checkpoints(campaign)) >= 2, process)
        before = set(workers_of(campaign))
        (lost,) = [pid for pid in before if _below(_raylet(nodes[0]), pid)]
        for pid in [_raylet(nodes[0]), *_all_below(_raylet(nodes[0])), lost]:
            _kill(pid)  # a machine without power
        cluster.remove_node(nodes[0], allow_graceful=False)
        died = time.monotonic()
        cluster.add_node(num_cpus=1)
        until(lambda: set(workers_of(campaign)) - before, process)
        restarted = time.monotonic() - died
        assert process.wait(GIVE_UP_SECONDS) == 0, campaign.said()
    finally:
        cluster.shutdown()
    failures = campaign.failures()
    assert failures["lost"] == 1
    assert campaign.table() == undisturbed
    report("ray", seconds=time.monotonic() - began, restarted_after=restarted, failures=failures, runs=len(undisturbed))


def _below(ancestor: int, pid: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _all_below(ancestor: int) -> list[int]:
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != ancestor and _below(ancestor, pid)]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_preempted_job_is_requeued_and_its_trial_goes_on(
    new_campaign: Callable[[str], Campaign], undisturbed: list[tuple[object, ...]]
) -> None:
    """On submitit's local executor, with the signal that SLURM sends."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    began = time.monotonic()
    campaign = new_campaign("submitit")
    settings = ("workers.launcher=slurm", "workers.slurm.executor=local")
    process = campaign.start(*settings)
    preempted = 0
    while preempted < 3:
        until(lambda: len(workers_of(campaign)) == 2 and len(checkpoints(campaign)) >= 2, process)
        worker, job = next(iter(workers_of(campaign).items()))
        os.kill(job, signal.SIGUSR2)
        until(lambda worker=worker: worker not in workers_of(campaign), process)
        preempted += 1
    process.kill()  # and the command itself: its jobs go on, and the next one finds them
    process.wait()
    jobs = json.loads((campaign.results / "slurm-jobs.json").read_text())["jobs"]
    assert campaign.start(*settings).wait(GIVE_UP_SECONDS) == 0, campaign.said()
    assert f"jobs of an earlier command go on: {', '.join(jobs)}" in re.sub(r"\s+", " ", campaign.said())
    assert not workers_of(campaign)
    failures = campaign.failures()
    assert failures["lost"] == 0
    assert failures["preempted"] >= 1
    assert campaign.table() == undisturbed
    report("submitit", seconds=time.monotonic() - began, preempted=preempted, failures=failures, runs=len(undisturbed))


def test_run_without_workers_of_its_own_waits_for_those_elsewhere_and_concludes(
    new_campaign: Callable[[str], Campaign], undisturbed: list[tuple[object, ...]]
) -> None:
    campaign = new_campaign("elsewhere")
    process = campaign.start("workers.count=0")
    until((campaign.results / "journal.log").exists, process)
    worker = [sys.executable, "-m", "moe_search", "worker", "results"]
    subprocess.run(worker, cwd=campaign.folder, env=campaign.environment, capture_output=True, check=True)
    assert process.wait(GIVE_UP_SECONDS) == 0, campaign.said()
    assert campaign.table() == undisturbed


SLURM = """\
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


@pytest.fixture
def slurm_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SLURM cluster of our own, of two nodes on this machine, where its programs are installed."""
    search = f"{os.environ['PATH']}:/usr/sbin"
    programs = {name: shutil.which(name, path=search) for name in ("munged", "slurmctld", "slurmd", "sbatch")}
    if None in programs.values() or os.geteuid():
        pytest.skip("no SLURM here, or nobody who may start it (apt-get install slurm-wlm)")
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    ports = [_free_port() for _ in range(3)]
    config = folder / "slurm.conf"
    config.write_text(SLURM.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=ports))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    monkeypatch.setenv("SLURM_CONF", str(config))
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = [
        [programs["munged"], "--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        [programs["slurmctld"], "-D", "-f", config],
        *([programs["slurmd"], "-D", "-N", node, "-f", config] for node in ("n1", "n2")),
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / "daemons.log").open("a") as said:
                daemons.append(subprocess.Popen([str(word) for word in command], stdout=said, stderr=said))
            time.sleep(1)
        idle = ["sinfo", "-h", "-t", "idle", "-o", "%D"]
        until(lambda: subprocess.run(idle, check=False, capture_output=True).stdout[:1] == b"2")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_slurm_cluster_preempts_requeues_and_is_left_clean(
    new_campaign: Callable[[str], Campaign], undisturbed: list[tuple[object, ...]], slurm_cluster: None
) -> None:
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    began = time.monotonic()
    campaign = new_campaign("slurm")
    settings = ("workers.launcher=slurm", "workers.slurm.partition=low", "workers.grace_seconds=15")
    process = campaign.start(*settings)
    until(lambda: len(workers_of(campaign)) == 2 and len(checkpoints(campaign)) >= 2, process)
    # Somebody more important needs a node for a moment.
    subprocess.run(["srun", "--partition=high", "--ntasks=1", "sleep", "1"], check=True, capture_output=True)
    until(lambda: len(workers_of(campaign)) == 2, process)
    running = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True, check=True)
    before = set(workers_of(campaign))
    subprocess.run(["scancel", "--signal=USR2", running.stdout.split()[0]], check=True)  # as at the end of its time
    until(lambda: set(workers_of(campaign)) != before, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(GIVE_UP_SECONDS) == 130, campaign.said()
    assert not workers_of(campaign), "SIGTERM stops them in good order"
    until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout)
    assert campaign.start(*settings).wait(GIVE_UP_SECONDS) == 0, campaign.said()
    until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout)
    failures = campaign.failures()
    assert failures["lost"] == 0
    assert failures["preempted"] >= 1
    assert campaign.table() == undisturbed
    report("slurm", seconds=time.monotonic() - began, failures=failures, runs=len(undisturbed))
