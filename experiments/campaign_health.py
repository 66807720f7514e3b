"""What ``moe-search doctor SPEC`` finds of one campaign: its folder, its storage and clock, MLflow, and its workers."""

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from rich.table import Table

from moe_search.experiments import numbers
from moe_search.experiments.browsing import server_address
from moe_search.experiments.doctor import Diagnosis
from moe_search.experiments.room import LEAST_TO_START, free_bytes
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.workspace import Workspace, check_writable
from moe_search.search.probing import probe
from moe_search.spaces.errors import MoESearchError

MOST_LATENCY_SECONDS = 0.5
"""Above it the search spends more time on its table than on proposals."""
MOST_CLOCK_SECONDS = 5.0
"""Leases run by the database's clock and need no agreement; what people read, and checks of certificates, do."""
PATIENCE_SECONDS = 5.0


def examine(spec: Spec, found: Diagnosis) -> None:
    """Look at what a campaign needs, and write nothing but a probe file.

    Args:
        spec: the campaign.
        found: gets ``campaign``, and problems and notes.
    """
    workspace = Workspace(spec)
    found.campaign = {"name": spec.name, "folder": _folder(workspace, found)}
    found.campaign["storage"] = _storage(spec, workspace, found)
    found.campaign["tracking"] = _tracking(spec, found)
    found.campaign["workers"] = _workers(spec, found)


def _folder(workspace: Workspace, found: Diagnosis) -> dict[str, Any]:
    free = free_bytes(workspace.folder)
    try:
        check_writable(workspace.folder)
        writable = True
    except MoESearchError as error:
        writable = False
        found.problems.append(str(error))
    if free < LEAST_TO_START:
        found.problems.append(
            f"{workspace.folder} has {numbers.size(free)} left; to start takes {numbers.size(LEAST_TO_START)}"
        )
    return {"path": str(workspace.folder), "writable": writable, "free_bytes": free}


def _storage(spec: Spec, workspace: Workspace, found: Diagnosis) -> dict[str, Any] | None:
    try:
        storage = workspace.journal if spec.storage is None else looked_up(spec.storage, where="storage")
        answer = probe(storage)
    except MoESearchError as error:
        found.problems.append(str(error))
        return None
    if answer.latency_seconds > MOST_LATENCY_SECONDS:
        found.notes.append(f"the storage takes {answer.latency_seconds:.2f} s to answer; move it nearer to the workers")
    if abs(answer.clock_seconds) > MOST_CLOCK_SECONDS:
        found.problems.append(
            f"the storage's clock differs by {answer.clock_seconds:+.1f} s from this machine's; "
            "let both follow a time server"
        )
    return answer.model_dump()


def _tracking(spec: Spec, found: Diagnosis) -> dict[str, Any] | None:
    """Ask an MLflow server how it is; other kinds of tracking are files in the campaign's folder."""
    if not spec.tracking.enabled:
        return None
    try:
        server = server_address(spec)
    except MoESearchError as error:
        found.problems.append(str(error))
        return None
    if server is None:
        return {"server": None, "answers": True, "latency_seconds": None}
    began = time.monotonic()
    try:
        with urlopen(Request(f"{server}/health"), timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - http(s) alone
            answer.read(1024)
    except HTTPError as error:
        if error.code not in {401, 403}:  # it is there, and asks who we are
            found.problems.append(f"the MLflow server {server} answers with HTTP status {error.code}")
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        found.problems.append(f"the MLflow server {server} does not answer: {reason}; a campaign runs without it")
        return {"server": server, "answers": False, "latency_seconds": None}
    return {"server": server, "answers": True, "latency_seconds": time.monotonic() - began}


def _workers(spec: Spec, found: Diagnosis) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count()
    if spec.workers.launcher == "local" and not gpus and spec.workers.count * spec.workers.threads > cores:
        found.notes.append(
            f"{spec.workers.count} workers of {spec.workers.threads} threads share {cores} cores and take turns"
        )
    return {
        "launcher": spec.workers.launcher,
        "count": spec.workers.count,
        "threads": spec.workers.threads,
        "cores": cores,
        "gpus": gpus,
    }


def table(found: Diagnosis) -> Iterator[Table]:
    """Yield what a person reads."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    campaign = found.campaign or {}
    facts.add_row("campaign", campaign["name"])
    folder, storage, tracking, workers = (campaign[name] for name in ("folder", "storage", "tracking", "workers"))
    facts.add_row("folder", f"{folder['path']}, {numbers.size(folder['free_bytes'])} free")
    if storage:
        facts.add_row(
            "storage",
            f"{storage['storage']}, {storage['version']}, answers in {1000 * storage['latency_seconds']:.1f} ms, "
            f"clock {storage['clock_seconds']:+.2f} s from ours",
        )
    if tracking:
        state = "answers" if tracking["answers"] else "does not answer"
        facts.add_row("MLflow", f"{tracking['server']} {state}" if tracking["server"] else "in the folder")
    facts.add_row(
        "workers",
        f"{workers['count']} of {workers['threads']} threads by {workers['launcher']}; "
        f"this machine has {workers['cores']} cores, {workers['gpus']} GPUs",
    )
    yield facts
