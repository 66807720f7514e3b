"""Room on the disk: a campaign does not start where there is too little, and stops in good order when it runs out.

Stopping early costs nothing: every worker saves its proxy and gives it back while there is still room for that. A disk
that is full in the middle of a write loses what was written.
"""

import math
import shutil
from pathlib import Path

from moe_search.experiments import numbers
from moe_search.spaces.errors import ResourceError

LEAST_TO_START = 500_000_000
"""Bytes: the trial table, logs, MLflow's database, the report and the checkpoints of a small campaign."""
LEAST_TO_GO_ON = 200_000_000
"""Bytes: a last checkpoint of each worker, and the projections."""


def free_bytes(folder: Path) -> float:
    """Return the room where ``folder`` is or will be; infinite where the file system does not tell its size."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return usage.free if usage.total else math.inf


def check_room(folder: Path, least: int, fate: str) -> None:
    """Make sure that there is room.

    Args:
        folder: of the campaign.
        least: bytes.
        fate: what the campaign does where there is less, ``does not start``.

    Raises:
        ResourceError: there is less.
    """
    free = free_bytes(folder)
    if free < least:
        raise ResourceError(
            f"{folder} has {numbers.size(free)} of free space and needs {numbers.size(least)}, so the campaign {fate}; "
            "free some space, then the same command continues"
        )
