"""RegMix: a regression on cheap runs ranks the designs, and the target runs the best of them (Liu et al. 2024).

``PROXIES`` designs (or as many as one run at the target pays for) are run at the cheapest fidelity, in the order of
chance and without looking at any result. Boosted trees (LightGBM, where it is installed, with the settings of the paper
but for smaller leaves) predict every design of the target from them; without LightGBM a linear regression of log loss
on the weights takes their place, which the paper has as its second. The paper runs one design; here the following ones
are run too, until one is good enough.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np

from moe_search.scaling.regressions.lightgbm import PARAMETERS, ROUNDS
from moe_search.search.replay.policy import Run, View
from moe_search.search.replay.task import Array

PROXIES, FEWEST = 128, 16
LEAF = 5
"""Runs in a leaf, at least: LightGBM's 20 are for the 512 proxies of the paper and blunt with 128."""
RIDGE = 1e-3


class RegMix:
    """One shot, one scale."""

    def __init__(self) -> None:
        self._order: list[int] = []

    def propose(self, view: View) -> list[Run]:
        """Return all proxies, then one run at the target at a time."""
        ends = view.table.options(view.target)
        if view.target == 0:
            left = view.open_designs(0)
            return [(0, int(view.rng.choice(left)))] if len(left) else []
        if not view.runs:
            options = view.rng.permutation(view.table.options(0))
            affordable = int(1 / float(np.median(view.table.cost[0, options])))
            return [(0, int(i)) for i in options[: min(max(affordable, FEWEST), PROXIES)]]
        if not self._order:
            features = _weights(view)
            predicted = _regression(features[view.design], view.observed, features[ends])
            self._order = ends[np.argsort(predicted, kind="stable")].tolist()
        return view.first_left(self._order)


def _weights(view: View) -> Array:
    """Features (designs, features) with the mixture's weights as they are, not their roots."""
    width = view.table.mixture_width
    return np.concatenate([view.table.features[:, :width] ** 2, view.table.features[:, width:]], axis=1)


def _regression(x: Array, y: Array, new: Array) -> Array:
    """Predict (new,) from runs x (n, features), y (n,)."""
    if importlib.util.find_spec("lightgbm") is not None and len(x) >= 2 * LEAF:
        lightgbm: Any = importlib.import_module("lightgbm")
        trained = lightgbm.train(
            {**PARAMETERS, "min_data_in_leaf": LEAF}, lightgbm.Dataset(x, y), num_boost_round=ROUNDS
        )
        return np.asarray(trained.predict(new), dtype=np.float64)
    center = x.mean(axis=0)
    a = x - center
    slope = np.linalg.solve(a.T @ a + RIDGE * len(x) * np.eye(a.shape[1]), a.T @ (y - y.mean()))
    predicted: Array = y.mean() + (new - center) @ slope
    return predicted


POLICY = RegMix
