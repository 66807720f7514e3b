"""What MLflow shows of a campaign and of one trial, as plain values."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from moe_search.spaces.errors import ResourceError


class RefusedError(ResourceError):
    """The store says no, and would say so again: a wrong password, say, or a file that is no database."""


@dataclass(frozen=True)
class TrackedTrial:
    """What is shown of one ended trial."""

    number: int
    name: str
    status: str
    """``finished``, ``diverged``, ``truncated``, ``oom`` or ``failed``."""
    start: float
    """Seconds since the epoch."""
    end: float
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    """The searched knobs and the integers they resolve to; fewer than 40."""
    metrics: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """Per metric (tokens, value)."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Texts by file name."""

    @cached_property
    def content(self) -> str:
        """A hash of everything that is shown."""
        text = json.dumps([self.status, self.tags, self.params, self.metrics, self.artifacts], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Picture:
    """All that is to be shown of a campaign at one moment."""

    trials: Sequence[TrackedTrial] = ()
    """Every ended one."""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The campaign's own numbers."""
    files: Sequence[Path] = ()
    """To be copied beside the campaign's run."""
    is_done: bool = False
    """Whether nothing more is to come."""
