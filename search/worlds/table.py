"""A world as a recorded table: sampled designs at every scale of the ladder, for policies that choose from tables.

A run of the table is one horizon by itself, at its own FLOPs. Failures are charged as what they cost and have the worst
loss of their scale, as is customary for optimisers that know no failures. How much text there is, optimisers use as
practitioners do: of mixtures that would read a domain more than ``MOST_EPOCHS`` times at the target those
that do it most are left out.
"""

from dataclasses import dataclass

import numpy as np

from moe_search.search.problem import Problem
from moe_search.search.replay.task import RecordedTable
from moe_search.search.worlds.moe import DIVERGES_AFTER, MoEWorld
from moe_search.spaces.accounting import flops_per_token
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.free import FreeMixture

DESIGNS, DESIGNS_SEED = 512, 23
DRAWN = 2
"""Times as many are drawn as are kept."""
MOST_EPOCHS = 4.0
"""Up to which repeated text is nearly as good as fresh (Muennighoff et al. 2023)."""
PAID = {"diverged": DIVERGES_AFTER, "oom": 1e-3}
"""Share of its cost that a run pays which fails."""


@dataclass(frozen=True, eq=False)
class WorldTable:
    """A table and what its designs are."""

    table: RecordedTable
    designs: tuple[Design, ...]
    unit: float
    """Training FLOPs of a typical run at the ladder's top: the table's unit of cost."""


def tabulate(world: MoEWorld, n: int = DESIGNS) -> WorldTable:
    """Return the table of ``n`` designs that fill what the cap on repetition leaves of the space."""
    problem = world.problem
    drawn = problem.space.sample(DRAWN * n, DESIGNS_SEED, accept=problem.is_feasible)
    most = dict(
        zip(problem.space.domains, MOST_EPOCHS * world.backbone.unique / problem.target_scale.tokens, strict=False)
    )
    excess = [max([1.0, *(one.mixture[domain] / weight for domain, weight in most.items())]) for one in drawn]
    designs = tuple(drawn[place] for place in np.sort(np.argsort(excess, kind="stable")[:n]))
    scales = problem.ladder.scales()
    per_size = {size: [_per_token(problem, design, size) for design in designs] for size in problem.ladder.sizes}
    flops = np.array([np.array(per_size[scale.n_active]) * scale.tokens for scale in scales])
    unit = float(np.median(flops[-1]))
    loss = np.empty(flops.shape)
    for place, scale in enumerate(scales):
        status = world.statuses(designs, scale)
        loss[place] = np.exp(world.observed(designs, scale, seed=0))
        failed = np.array([one != "finished" for one in status])
        loss[place, failed] = loss[place, ~failed].max(initial=loss[place].min())
        flops[place] *= [PAID.get(one, 1.0) for one in status]
    names = tuple(f"{scale.n_active:g} x {scale.tokens:g}" for scale in scales)
    order = [name for name in problem.space.feature_names if name.startswith("sqrt_weight/")]
    order += [name for name in problem.space.feature_names if name not in order]
    places = [problem.space.feature_names.index(name) for name in order]
    features = np.array([problem.features(design) for design in designs])[:, places]
    features = features[:, features.std(axis=0) > 0]  # the controls' indicators do not vary
    width = len(problem.space.domains) if isinstance(problem.space.mixture, FreeMixture) else 0
    return WorldTable(RecordedTable("world", features, width, loss, flops / unit, names), designs, unit)


def _per_token(problem: Problem, design: Design, n_active: int) -> float:
    return flops_per_token(problem.resolved(design, Scale(n_active=n_active, tokens=1)).architecture).train
