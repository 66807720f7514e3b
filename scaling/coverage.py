"""How often intervals hold what they should, on simulated worlds where the truth is known.

A law is fitted to a ladder of runs, and predicts new runs inside it and at ten times its largest compute. A share of
them lies in each interval; over many worlds it should be the interval's level. The law may be the world's, or another:
then no coefficient is right, and only the record of the fit below its own cuts can say how wrong it is. What was
measured is in :mod:`~moe_search.scaling.calibration`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_search.scaling.calibration import widen
from moe_search.scaling.fit import fit
from moe_search.scaling.holdout import score
from moe_search.scaling.law import Law
from moe_search.scaling.worlds import World
from moe_search.spaces.errors import InvalidInputError

JUDGED = 40
"""New runs inside the ladder, and as many beyond it."""
FACTOR = 10.0
"""Compute of the runs beyond, over the ladder's largest."""
INSIDE, BEYOND = "inside", "beyond"


@dataclass(frozen=True)
class Covered:
    """One fitted law on new runs of one world."""

    law: str
    true: bool
    """Whether the world is one of this law's."""
    runs: int
    where: str
    """``inside`` or ``beyond`` the ladder."""
    widened: bool
    coverage_80: float
    coverage_95: float
    width_95: float
    """Of the 95 % interval, in percent of the loss, on average."""
    mape: float


def covered(
    world: World,
    laws: Sequence[Law],
    runs: int,
    *,
    seed: int,
    resamples: int = 200,
    resamples_below: int = 100,
    starts: int = 64,
) -> tuple[list[Covered], list[str]]:
    """Fit laws to a ladder of ``world`` and judge their intervals on new runs, as they come and widened.

    Args:
        world: the truth.
        laws: to fit.
        runs: of the ladder.
        seed: of the runs, starts and resamples.
        resamples: a fit.
        resamples_below: a fit below a cut.
        starts: a fit.

    Returns:
        The results, and the names of laws that cannot be fitted to so few runs.
    """
    ladder = world.ladder(runs, seed)
    largest = float(np.max(ladder["train_flops"].to_numpy()))
    new = {
        INSIDE: world.ladder(JUDGED, seed + 1_000_003),
        BEYOND: world.beyond(JUDGED, seed, train_flops=FACTOR * largest),
    }
    found, refused = [], []
    for law in laws:
        try:
            plain = fit(law, ladder, objective=world.column, resamples=resamples, starts=starts, seed=seed)
        except InvalidInputError:
            refused.append(law.name)
            continue
        wide = widen(plain, ladder, seed=seed, starts=starts, resamples=resamples_below)
        true = law.name == world.law.name and world.curvature == 0
        for where, frame in new.items():
            observed = frame[world.column].to_numpy()
            for one in (plain, wide):
                judged = score(one.predict(frame, seed=seed), observed)
                width = [100 * (row["high_95"] - row["low_95"]) / row["observed"] for row in judged.predictions]
                found.append(
                    Covered(
                        law=law.name,
                        true=true,
                        runs=runs,
                        where=where,
                        widened=one is wide,
                        coverage_80=judged.coverage_80,
                        coverage_95=judged.coverage_95,
                        width_95=float(np.mean(width)),
                        mape=judged.mape,
                    )
                )
    return found, refused
