"""Under a distributed strategy of Lightning's, a step on several processes is the step on one."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_search.proxies.corpus import Corpus, open_corpus
from moe_search.proxies.model import build_model
from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training.data import step_loader
from moe_search.proxies.training.lean_lightning import pl
from moe_search.proxies.training.module import ProxyModule
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.resolve import Resolved

IMPORTS = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from moe_search.proxies.corpus import open_corpus
from moe_search.proxies.model import build_model
from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training.data import step_loader
from moe_search.proxies.training.lean_lightning import pl
from moe_search.proxies.training.module import ProxyModule
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.spaces.resolve import Resolved
"""


def train(root: str, out: str, resolved_json: str, recipe_json: str, strategy: str, devices: int) -> None:
    """Make six steps and store the weights."""
    resolved, recipe = Resolved.model_validate_json(resolved_json), TrainingRecipe.model_validate_json(recipe_json)
    model = build_model(resolved.architecture, seed=0)
    stream = MixtureStream(open_corpus(Path(root)), resolved.design.mixture, batch_sequences=4, seq_len=16, seed=0)
    module = ProxyModule(
        model, recipe=recipe, learning_rate=0.01, rate=lambda _: 1.0, seed=0, first_step=0, optimizer_tensors=None
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_epochs=1,
        use_distributed_sampler=False,
        barebones=True,
    )
    trainer.fit(module, step_loader(stream, 0, 6, pin_memory=False))
    assert trainer.world_size == devices
    if trainer.is_global_zero:
        save_file(dict(model.state_dict()), out)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_train_the_model_of_one(
    corpus: Corpus, resolved: Resolved, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    outputs = [str(tmp_path / name) for name in ("one", "two")]
    given = (resolved.model_dump_json(), recipe.model_dump_json())
    train(str(corpus.root), outputs[0], *given, "auto", 1)
    script = tmp_path / "train.py"
    script.write_text(f'{IMPORTS}\n{inspect.getsource(train)}\ntrain(*sys.argv[1:], "ddp", 2)\n')
    subprocess.run(
        [sys.executable, script, str(corpus.root), outputs[1], *given], check=True, capture_output=True, timeout=120
    )
    one, two = (load_file(path) for path in outputs)
    begun = build_model(resolved.architecture, seed=0).state_dict()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-5), name
        assert not torch.equal(value, begun[name]), name
