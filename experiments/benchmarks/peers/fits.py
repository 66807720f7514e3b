"""Fit Chinchilla's form with other packages; run by another interpreter, which has them: ``python fits.py PACKAGE``.

Standard input is a JSON object (``n``, ``d``, ``loss``, ``resamples``); standard output one with ``seconds``,
``cpu_seconds``, ``predicted`` at the same points, ``ends`` (E, A, B, alpha, beta where each start ended; null: not
told), ``resamples``, ``note`` and ``version``. It imports nothing of this project.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import json
import math
import os
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

LEVELS = 3
"""Of each parameter's starts: 3^5 = 243."""
DELTA = 1e-3


def with_chinchilla(points: dict[str, Any]) -> dict[str, Any]:
    """BFGS from a grid of starts, with the loss of Hoffmann et al.; it has no intervals."""
    package = importlib.import_module("chinchilla")
    numpy = importlib.import_module("numpy")
    metrics = importlib.import_module("chinchilla._metrics")
    grid = {
        "e": numpy.linspace(-1, 1, LEVELS),
        "a": numpy.linspace(0, 25, LEVELS),
        "b": numpy.linspace(0, 25, LEVELS),
        "alpha": numpy.linspace(0, 2, LEVELS),
        "beta": numpy.linspace(0, 2, LEVELS),
    }
    core: Any = importlib.import_module("chinchilla.core")
    width = numpy.array([float(numpy.ptp(values)) for values in grid.values()])  # in which the package counts
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "ends"

        def minimize(*arguments: Any, **options: Any) -> Any:
            """Minimise as the package asks, in its own processes, and keep the end."""
            end = optimize.minimize(*arguments, **options)
            with told.open("a") as file:  # a line is short enough to be appended at once
                file.write(json.dumps((end.x * width).tolist()) + "\n")
            return end

        optimize, core.sciop = core.sciop, types.SimpleNamespace(minimize=minimize)
        law = package.Chinchilla(
            folder, param_grid=grid, loss_fn=functools.partial(metrics.log_huber, delta=DELTA), log_level=60
        )
        for n, d, loss in zip(points["n"], points["d"], points["loss"], strict=True):
            law.append(N=n, D=d, loss=loss)
        law.visualizer.optim = lambda *_, **__: None  # plots are not part of the fit
        began, cpu = time.perf_counter(), _cpu()
        law.fit()
        seconds, cpu = time.perf_counter() - began, _cpu() - cpu
        ends = [json.loads(line) for line in told.read_text().splitlines()]
    n, d = (numpy.array(points[name], dtype=float) for name in ("n", "d"))
    predicted = law.E + law.A / n**law.alpha + law.B / d**law.beta
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "predicted": [float(value) for value in predicted],
        "ends": [[*(_exp(value) for value in end[:3]), *end[3:]] for end in ends],
        "resamples": 0,
        "note": "has no intervals",
    }


def with_simple_scaling_laws(points: dict[str, Any]) -> dict[str, Any]:
    """Weighted least squares by variable projection, with its bootstrap."""
    package = importlib.import_module("simple_scaling_laws")
    polars = importlib.import_module("polars")
    numpy = importlib.import_module("numpy")
    size, data, loss = "model_size__n", "dataset_size__d", "test_loss__loss"
    frame = polars.DataFrame(
        {"training_run_id": [str(i) for i in range(len(points["n"]))], size: points["n"], data: points["d"]}
    ).with_columns(polars.Series(loss, points["loss"]))
    began, cpu = time.perf_counter(), _cpu()
    model = package.fit(frame, law="separable-power", n_draws=max(points["resamples"], 1), seed=0)
    seconds, cpu = time.perf_counter() - began, _cpu() - cpu
    values, domain = model.params(loss), model.observed_domain
    predicted = numpy.full(len(points["n"]), values["E"])
    for amplitude, exponent, column, key in (("A", "alpha", size, "n"), ("B", "beta", data, "d")):
        ratio = numpy.array(points[key]) / domain[column]["reference"]
        predicted = predicted + values[amplitude] * ratio ** -values[exponent]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "predicted": predicted.tolist(),
        "ends": None,
        "resamples": points["resamples"],
        "note": "minimises squared errors",
    }


def _cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


PACKAGES = {"chinchilla": with_chinchilla, "simple-scaling-laws": with_simple_scaling_laws}


def main() -> None:
    """Fit with the package named on the command line."""
    name = sys.argv[1]
    points = json.load(sys.stdin)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        found = PACKAGES[name](points)
    json.dump({**found, "version": importlib.metadata.version(name)}, sys.stdout)


if __name__ == "__main__":
    main()
