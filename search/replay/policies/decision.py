"""Our policy on recorded tables: the run that says most about the choice at the target, per unit of cost.

Two models are kept. The joint one (:class:`~moe_search.search.transfer.TransferModel`) learns from all fidelities; the
single one from the target alone. Each is judged by how well it predicts the target's losses that it leaves out, and
a step follows either with the odds of those densities. Where proxies are worth something the joint model wins at once;
where they carry nothing, or the opposite, the search becomes one at a single fidelity after a few runs at the target.
So a misleading proxy costs those few runs, whatever it looks like. Proxies that do not even foresee one another count
against the joint model from the start; once they are many, the first runs at the target are then taken at random.

A run at the target goes to the design of the largest expected improvement on the best loss seen there (before the
first: on a design taken at random). A proxy is run instead while its knowledge gradient per cost is larger: what the
search gains is the loss of a design that *was* run at the target, and both are rates of that gain.

Starvation is excluded by construction too: below the target, as many runs in a row as ``MOST_IN_A_ROW``, or as cost as
much as one run at the target, make the target due.
"""

import math

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from moe_search.search.acquisition import knowledge_gradient
from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import Array
from moe_search.search.suggest import one_thread
from moe_search.search.transfer import TransferModel

FIRST, FIRST_COST = 48, 0.15
"""Runs at the cheapest fidelity before any model, and what they may cost."""
FEWEST_FIRST = 4
MOST_IN_A_ROW = 128
AT_ONCE = 8
"""Cheap runs that one model proposes, if all of them together cost less than a hundredth of a run at the target."""
CHEAP = 0.01
NEGLIGIBLE = 0.05
"""What proxies may always cost before the first run at the target: the knowledge gradient sees one run ahead, and many
together can say what none of them does."""
FEWEST_TO_JUDGE = 2
"""Runs at the target before the joint model can be found wanting."""
DISTRUST = 3.0
"""Log odds that the joint model loses, at most, before either has predicted anything: where its proxies do not even
foresee one another. Not more, so that designs whose features say nothing may still be ranked by what was run."""


class Decision:
    """Keeps the last hyper-parameters, from which the next model starts."""

    def __init__(self) -> None:
        self._previous: Array | None = None

    def propose(self, view: View) -> list[Run]:
        """Return the next run, or a few cheap ones."""
        cheapest = view.table.options(0)
        if not view.runs and view.target > 0:
            affordable = int(FIRST_COST / float(np.median(view.table.cost[0, cheapest])))
            count = min(max(FEWEST_FIRST, min(FIRST, affordable)), len(cheapest))
            return [(0, int(i)) for i in view.rng.choice(cheapest, count, replace=False)]
        left = view.open_designs(view.target)
        if not len(left):
            return []
        if not view.runs:
            return [(view.target, int(view.rng.choice(left)))]
        with one_thread():
            return self._informed(view, left)

    def _informed(self, view: View, left: np.ndarray) -> list[Run]:
        table = view.table
        model = TransferModel(
            table.features[view.design], view.fidelity, view.observed, len(table.fidelities), self._previous
        )
        self._previous = model.hyperparameters
        if (view.fidelity == view.target).sum() < FEWEST_TO_JUDGE and _silent(view, model):
            return [(view.target, int(view.rng.choice(left)))]
        if (single := self._single(view, model)) is not None:
            return [(view.target, _most_improving(view, single, 0, left)[0])]
        count, cost = view.since_target()
        run, improvement = _most_improving(view, model, view.target, left)
        if count < MOST_IN_A_ROW and cost < 1 and (cheap := _cheaper(view, model)):
            runs, rate = cheap
            if rate > improvement or view.spent < NEGLIGIBLE:
                return runs[: MOST_IN_A_ROW - count]
        return [(view.target, run)]

    @staticmethod
    def _single(view: View, joint: TransferModel) -> TransferModel | None:
        """The model of the target alone, if this step follows it."""
        chosen = view.fidelity == view.target
        if view.target == 0 or chosen.sum() < FEWEST_TO_JUDGE:
            return None
        alone = TransferModel(
            view.table.features[view.design[chosen]],
            np.zeros(int(chosen.sum()), dtype=np.intp),
            view.observed[chosen],
            1,
        )
        odds = _trust(view, joint) + joint.left_out(view.target) - alone.left_out(0)
        return None if view.rng.uniform() < 1 / (1 + math.exp(-np.clip(odds, -50, 50))) else alone


def _trust(view: View, joint: TransferModel) -> float:
    """Return the log odds of the joint model before the target's losses: 0 for proxies that foresee one another.

    A fit of p hyper-parameters foresees pure noise by about p nats (Akaike 1973), or by a half a run of few.
    """
    cheap = range(view.target)
    noise = min(len(joint.hyperparameters), int((view.fidelity < view.target).sum()) / 2)
    return float(np.clip(sum(joint.foreseen(s) for s in cheap) - noise, -DISTRUST, 0.0))


def _silent(view: View, joint: TransferModel) -> bool:
    """Whether the proxies, once they are twice as many as the hyper-parameters, are to be taken for noise."""
    enough = (view.fidelity < view.target).sum() >= 2 * len(joint.hyperparameters)
    return bool(enough) and view.rng.uniform() > math.exp(_trust(view, joint))


def _cheaper(view: View, model: TransferModel) -> tuple[list[Run], float] | None:
    """Return the runs below the target with the largest knowledge gradient per cost, and that of the best of them."""
    table = view.table
    features = torch.from_numpy(table.features)
    runs = [(s, int(i)) for s in range(view.target) for i in view.open_designs(s)]
    if not runs:
        return None
    choices = torch.from_numpy(table.options(view.target))
    target = features[choices], torch.full((len(choices),), view.target)
    fidelity, design = (torch.tensor(part) for part in zip(*runs, strict=True))
    inputs = features[design], fidelity
    gain = knowledge_gradient(
        model.mean(*target),
        model.covariance(inputs, target),
        model.variance(*inputs) + model.noise_variance[fidelity],
    )
    rate = gain.numpy() / np.array([table.cost[run] for run in runs])
    order = np.argsort(-rate, kind="stable")
    best = runs[order[0]]
    at_once = AT_ONCE if AT_ONCE * table.cost[best] < CHEAP else 1
    return [runs[k] for k in order[:at_once] if runs[k][0] == best[0]], float(rate[order[0]])


def _most_improving(view: View, model: TransferModel, fidelity: int, left: np.ndarray) -> tuple[int, float]:
    """Return the design of ``left`` with the largest expected improvement on the best of the target, and how large.

    Before the first run at the target, it is the improvement on a design taken at random.
    """
    inputs = torch.from_numpy(view.table.features[left]), torch.full((len(left),), fidelity)
    mean = model.mean(*inputs)
    seen = view.observed[view.fidelity == view.target]
    if not len(seen):
        best = int(mean.argmin())
        return int(left[best]), float(mean.mean() - mean[best])
    deviation = model.variance(*inputs).sqrt()
    improvement = deviation.log() + _log_improvement((float(seen.min()) - mean) / deviation)
    best = int(improvement.argmax())
    return int(left[best]), float(improvement[best].exp())


def _log_improvement(z: Tensor) -> Tensor:
    """Return log(phi(z) + z Phi(z)), by its asymptote phi(z)/z² where that underflows."""
    values = z.numpy()
    far = np.minimum(values, -5.0)
    near = np.maximum(values, -5.0)
    exact = np.log(norm.pdf(near) + near * norm.cdf(near))
    return torch.from_numpy(np.where(values > -5, exact, norm.logpdf(far) - 2 * np.log(-far)))


POLICY = Decision
