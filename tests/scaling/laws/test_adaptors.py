"""What each law calls N, D, G and the rest, from the raw dimensions of one run."""

import numpy as np
import polars as pl
import pytest

from moe_search.scaling.laws import get_law, law_names

RUN = pl.DataFrame(
    {
        "n_active": [120e6],
        "n_total": [400e6],
        "n_active_non_embedding": [100e6],
        "n_total_non_embedding": [380e6],
        "tokens": [8e9],
        "unique_tokens": [2e9],
        "dense_tokens": [3e9],
        "expansion": [8.0],
        "activation_ratio": [0.125],
        "granularity": [4.0],
        "d_model": [768],
        "n_layers": [8],
        "d_expert": [512],
        "train_flops": [6e18],
        "learning_rate": [1e-3],
        "batch_tokens": [4e5],
        "domain_weight": [0.25],
        "weight/a": [0.25],
        "weight/b": [0.75],
    }
)
ACTIVE = {"N": 120e6, "D": 8e9}
WITHOUT_EMBEDDINGS = {"N": 100e6, "D": 8e9}
MIXTURE = {"h": [0.25, 0.75]}
SWEEP = WITHOUT_EMBEDDINGS | {"lr": 1e-3, "batch": 4e5}
EXPECTED = {
    "bimix": {"r": 0.25, "s": 8e9 / 4e5},
    "chinchilla": ACTIVE,
    "clark": {"N": 120e6, "E": 8.0},
    "compute": {"C": 6e18},
    "data_mixing": MIXTURE,
    "efficiency_leverage": {"C": 6e18, "A": 0.125, "G": 2 * 768 / 512},
    "farseer": WITHOUT_EMBEDDINGS,
    "fine_grained": {"N": 380e6, "D": 8e9, "G": 4.0},
    "gadre": {"C": 6 * 120e6 * 8e9, "M": 8e9 / 120e6},
    "joint": WITHOUT_EMBEDDINGS | {"X": 8.0, "G": 4.0, "R": [8 / 2], "S": [768 / 8], "w": [0.5, 1.5]},
    "joint_moe": ACTIVE | {"E": 8.0},
    "kaplan": WITHOUT_EMBEDDINGS,
    "log_linear": MIXTURE,
    "mixture": MIXTURE,
    "muennighoff": ACTIVE | {"U": 2e9},
    "shukor_additive": ACTIVE | MIXTURE,
    "shukor_joint": ACTIVE | MIXTURE,
    "sparsity": {"N": 400e6, "D": 8e9, "A": 0.125},
    "step_law": SWEEP,
    "step_law_sweeps": SWEEP | {"sweep": [1.0]},
    "upcycling": {"D1": 3e9, "D2": 8e9},
}


@pytest.mark.parametrize("name", law_names())
def test_variables_of_a_run(name: str) -> None:
    law = get_law(name)
    law = law.for_domains(law.groups(RUN) or ("a", "b"))
    found = law.variables(RUN)
    assert set(found) == set(EXPECTED[name])
    for variable, expected in EXPECTED[name].items():
        np.testing.assert_allclose(found[variable][0], expected, rtol=1e-12, err_msg=variable)
