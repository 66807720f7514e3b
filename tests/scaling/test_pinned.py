from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.fit import fit
from moe_search.scaling.fitted import Fit
from moe_search.scaling.laws import get_law
from moe_search.spaces.errors import InvalidInputError

TRUTH = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}


def some_runs() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"n_active": 10 ** rng.uniform(7, 9, 60), "tokens": 10 ** rng.uniform(9, 11, 60)})
    law = get_law("chinchilla")
    return frame.with_columns(loss=pl.Series(law.predict(TRUTH, law.variables(frame))))


def test_a_held_parameter_leaves_the_fit_and_keeps_its_value(tmp_path: Path) -> None:
    found = fit(get_law("chinchilla:E=1.8"), some_runs(), resamples=50)
    assert set(found.parameters) == {"A", "B", "alpha", "beta"}
    assert found.parameters["alpha"].value == pytest.approx(0.35, rel=1e-4)
    assert found.derived["allocation_exponent"].value == pytest.approx(0.37 / 0.72, rel=1e-4)
    (tmp_path / "fit.json").write_text(found.to_file_text())
    again = Fit.from_file(tmp_path / "fit.json")
    np.testing.assert_array_equal(again.predict(some_runs()).mean, found.predict(some_runs()).mean)


def test_a_wrong_value_moves_the_others() -> None:
    right, wrong = (fit(get_law(f"chinchilla:E={e}"), some_runs(), resamples=0) for e in (1.8, 1.5))
    assert wrong.objective > 100 * right.objective
    assert wrong.parameters["alpha"].value < right.parameters["alpha"].value


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "joint_moe"])
def test_jacobian_is_the_rest_of_the_whole(name: str) -> None:
    law = get_law(name)
    held = law.names[1]
    pinned = get_law(f"{name}:{held}={law.parameters[1].center!r}")
    x = {"N": np.geomspace(1e7, 1e9, 5), "D": np.geomspace(1e9, 1e10, 5)} | {"E": np.full(5, 8.0)}
    theta = law.internal({p.name: p.center for p in law.parameters})
    value, jacobian = law.log_loss_and_jacobian(theta, x)
    less, without = pinned.log_loss_and_jacobian(np.delete(theta, 1, axis=1), x)
    np.testing.assert_array_equal(less, value)
    np.testing.assert_array_equal(without, np.delete(jacobian, 1, axis=1))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chinchilla:F=1", "the law chinchilla has no parameter 'F'"),
        ("chinchilla:E=high", "'E=high' holds no parameter at a number"),
        ("chinchilla:alpha=-1", r"alpha of the law chinchilla cannot be -1.*0.001 <= alpha <= 2.5"),
        ("chinchilla:E=1,A=2,B=3,alpha=0.3,beta=0.3", "all parameters of the law chinchilla are held"),
        ("chinchila:E=1", "unknown law 'chinchila'"),
    ],
)
def test_what_cannot_be_held_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        get_law(name)
