"""The problem: everything besides the results that a proposal depends on."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from moe_search.search.policy import Policy
from moe_search.search.price import Price
from moe_search.search.repetition import fresh_equivalent
from moe_search.search.trial import Proposal, Trial
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.resolve import Resolved, resolve
from moe_search.spaces.rules import ShapeRules
from moe_search.spaces.run import run_key
from moe_search.spaces.space import SearchSpace

WEIGHT_FEATURE = "sqrt_weight/"
"""How the space names the square roots of mixture weights among its features."""


class Problem(Frozen):
    """What is searched, at which scales, for how much, and the constants of the policy.

    With the rows of the ledger it determines every proposal, so it is stored beside them.
    """

    space: SearchSpace
    ladder: Ladder
    rules: ShapeRules = ShapeRules()
    target: Scale | None = None
    """The scale whose best design is wanted; None: the ladder's top."""
    unique_tokens: tuple[PositiveFloat, ...] | None = None
    """Different tokens that the ladder's runs have of each of the space's domains, in their order; None: more than
    enough, or not known."""
    full_scale_text: tuple[PositiveFloat, ...] | None = None
    """The same for runs of more tokens than the ladder's, whose text the ladder's may be a sample of."""
    budget_flops: float = Field(gt=0)
    """Training FLOPs of all trials together."""
    decay_share: float = Field(default=0.2, ge=0, le=1)
    """Share of a horizon that is learning-rate decay: what a shorter horizon costs beyond the trunk it shares."""
    context: str = ""
    """Fingerprint of recipe, data and code; part of every run key."""
    data_hash: str = ""
    """The text behind ``context``: no other may join the campaign. Empty where it is not known."""
    code_version: str = ""
    """The training code behind ``context``."""
    price: Price | None = None
    """Device-seconds on the machine that began the campaign; None where it has no table of measured shapes. What is
    proposed depends on it only if the policy counts in seconds."""
    seed: int = 0
    lag: int = Field(default=3, ge=0)
    """A proposal looks at the results of all trials but the ``lag`` latest, so ``lag + 1`` workers hardly wait."""

    policy: Policy = Policy(stop=False)
    """What a campaign may choose; of itself a problem is searched until its budget is spent."""
    initial_share: float = Field(default=0.5, gt=0, le=1)
    """Largest share of the budget that the initial design may take."""
    pool_size: PositiveInt = 192
    """Designs, spread over the space, that every proposal considers."""
    neighbours: int = Field(default=16, ge=0)
    """Mutations of each of the three best designs that are considered too."""
    share_below_top: float = Field(default=0.25, ge=0, le=1)
    """Share of the budget that trials in a row may cost below the ladder's top; at least what one run there costs."""
    max_below_top: PositiveInt = 32
    """Trials in a row that may stay below the ladder's top, however cheap they are."""
    repeat_every: PositiveInt = 12
    """One trial in so many repeats the best design with another seed at a cheap scale, to measure the noise."""

    @property
    def target_scale(self) -> Scale:
        """Where the decision falls."""
        return self.target or self.ladder.top

    def resolved(self, design: Design, scale: Scale) -> Resolved:
        """Return the integers of ``design`` at ``scale``; cached."""
        return _resolved(design, Scale(n_active=scale.n_active, tokens=1), self.rules).replace(scale=scale)

    def realised(self, design: Design, scale: Scale) -> tuple[Design, Scale]:
        """Return what a design's integers amount to at a scale: realised granularity, activation ratio and size.

        A design that has no architecture at the scale (a target under the proxies' rules) stands for itself.
        """
        realised, n_active = _realised(design, scale.n_active, self.rules)
        return realised, scale if n_active == scale.n_active else Scale(n_active=n_active, tokens=scale.tokens)

    def features(self, design: Design) -> np.ndarray:
        """Return the design's coordinates in [0, 1] for the surrogate ``(n_features,)``; cached."""
        return _features(design, self.space)

    def coordinates(self, designs: Sequence[Design], scales: Sequence[Scale]) -> tuple[np.ndarray, np.ndarray]:
        """Return features ``(n, n_features)`` and log tokens ``(n,)`` of realised runs, for the surrogate.

        Where domains are scarce they are those of the run's fresh equivalent (:mod:`moe_search.search.repetition`).
        """
        n_features = len(self.space.feature_names)
        features = np.array([self.features(design) for design in designs]).reshape(len(designs), n_features)
        tokens = np.array([scale.tokens for scale in scales], dtype=np.float64)
        if not designs or (self.unique_tokens is None and self.full_scale_text is None):
            return features, np.log(tokens)
        weights = np.array([[design.mixture[domain] for domain in self.space.domains] for design in designs])
        is_beyond = tokens[:, None] > self.ladder.tokens[-1]
        unique = np.where(
            is_beyond, *(np.inf if of is None else of for of in (self.full_scale_text, self.unique_tokens))
        )
        total, mixture = fresh_equivalent(weights, tokens, unique)
        columns = [name.startswith(WEIGHT_FEATURE) for name in self.space.feature_names]
        if any(columns):
            features = features.copy()
            features[:, columns] = np.sqrt(mixture)
        return features, np.log(total)

    def is_feasible(self, design: Design) -> bool:
        """Say whether a design has an architecture at every size of the ladder."""
        try:
            for size in self.ladder.sizes:
                _resolved(design, Scale(n_active=size, tokens=1), self.rules)
        except InvalidInputError:
            return False
        return True

    def cost(self, design: Design, scale: Scale) -> float:
        """Return the training FLOPs of a trial: its trunk, and a decay branch for every shorter horizon."""
        return _train_flops_per_token(design, scale.n_active, self.rules) * self._trained_tokens(scale)

    def seconds(self, design: Design, scale: Scale) -> float | None:
        """Return the device-seconds of the same, steps alone; None where no price is known."""
        if self.price is None:
            return None
        resolved = _resolved(design, Scale(n_active=scale.n_active, tokens=1), self.rules)
        a_token = self.price.seconds_per_token(resolved.architecture, resolved.realised.n_active_non_embedding)
        return a_token * self._trained_tokens(scale)

    def _trained_tokens(self, scale: Scale) -> float:
        shorter = [horizon for horizon in self.ladder.horizons(scale.tokens) if horizon < scale.tokens]
        return scale.tokens + self.decay_share * sum(shorter)

    def trial(self, number: int, proposal: Proposal) -> Trial:
        """Return ``proposal`` as trial ``number``."""
        tokens = proposal.scale.tokens
        shorter = (horizon for horizon in self.ladder.horizons(tokens) if horizon < tokens)
        if proposal.predicted_seconds is None:
            proposal = proposal.replace(predicted_seconds=self.seconds(proposal.design, proposal.scale))
        return Trial(
            **{name: getattr(proposal, name) for name in Proposal.model_fields},
            number=number,
            horizons=(*shorter, tokens),
            run_key=run_key(proposal.design, proposal.scale, proposal.seed, self.context),
        )


@lru_cache(maxsize=16_384)
def _resolved(design: Design, scale: Scale, rules: ShapeRules) -> Resolved:
    return resolve(design, scale, rules)


@lru_cache(maxsize=16_384)
def _train_flops_per_token(design: Design, n_active: int, rules: ShapeRules) -> float:
    return flops_per_token(_resolved(design, Scale(n_active=n_active, tokens=1), rules).architecture).train


@lru_cache(maxsize=16_384)
def _features(design: Design, space: SearchSpace) -> np.ndarray:
    return space.features(design)


@lru_cache(maxsize=16_384)
def _realised(design: Design, n_active: int, rules: ShapeRules) -> tuple[Design, int]:
    try:
        realised = _resolved(design, Scale(n_active=n_active, tokens=1), rules).realised
    except InvalidInputError:
        return design, n_active
    if design.ffn == "moe":
        design = design.replace(granularity=realised.granularity, activation_ratio=realised.activation_ratio)
    return design, realised.n_active_non_embedding
