"""What the search says about itself: why it ended, which surrogate held, and how far its proxies can be trusted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """The decision when one trial was proposed, in the loss's unit at the ladder's top."""

    trial: int
    regret: float
    """Expected regret of the choice."""
    noise: float
    """Standard deviation between two seeds."""
    gain: float
    """The most that the rest of the budget could gain by repeats of one run."""


@dataclass(frozen=True)
class ScaleTruth:
    """How often proxies at one scale rank as the ladder's top does."""

    n_active: int
    tokens: int
    expected: float
    one_run: float


@dataclass(frozen=True)
class KnobTruth:
    """What proxies are worth for one knob."""

    knob: str
    effect: float
    """Typical difference of two designs at the ladder's top, relative to the loss."""
    matters: bool
    """Whether that is more than two seeds differ by."""
    decided_from: tuple[int, int] | None
    """Active parameters and tokens of the cheapest scale that decides it; None: none below the top."""
    scales: tuple[ScaleTruth, ...]
    full_scale: float | None
    """How often the ladder's top ranks as the recommended full scale does; None without a recommendation."""


@dataclass(frozen=True)
class SurrogateScore:
    """How one form of surrogate predicted trials that it had not seen, in percent."""

    form: str
    error: float
    offset: float


@dataclass(frozen=True)
class SearchSummary:
    """All of it."""

    ended: str
    """Why the search ended; empty while it goes on."""
    steps: Sequence[Step]
    truths: Sequence[KnobTruth]
    trusted: float
    """Share from which proxies at a scale decide a knob."""
    validation: str
    """Which surrogate held on held-out trials, or why none was tried."""
    scores: Sequence[SurrogateScore]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)
