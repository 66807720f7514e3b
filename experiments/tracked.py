"""What MLflow shows of one trial, as a plain value."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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

    def content(self) -> str:
        """Return a hash of everything that is shown."""
        text = json.dumps([self.status, self.tags, self.params, self.metrics, self.artifacts], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
