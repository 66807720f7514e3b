"""What a campaign writes and deletes lies in its own folder, whatever its file and its trial table say."""

import inspect
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from moe_search.experiments.cli.ui import ui
from moe_search.experiments.presets.catalogue import preset_path
from moe_search.experiments.spec.loading import load_spec
from moe_search.experiments.workspace import Workspace, write_text
from moe_search.proxies.training.checkpoint import CheckpointFolder
from moe_search.search.problem import Problem
from moe_search.search.trial import Trial
from moe_search.spaces.errors import InvalidInputError

OUTSIDE = ["../outside", "/tmp/outside", "a/b", "..", ".", "", "a\0b", "a\nb", "~", "C:\\x"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_become_paths_are_words(name: str) -> None:
    for setting in (f"name={json.dumps(name)}", f"corpus.source={{{json.dumps(name)}: [x.txt]}}"):
        with pytest.raises(InvalidInputError):
            load_spec(preset_path("quickstart"), [setting])


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_trial_table_cannot_send_checkpoints_elsewhere(name: str) -> None:
    """The folder of a trial's checkpoints is deleted when it has ended."""
    spec = load_spec(preset_path("quickstart"))
    problem = Problem(space=spec.space, ladder=spec.ladder, rules=spec.shape, budget_flops=1e15)
    design, scale = spec.space.center(), spec.ladder.top
    content = {
        "design": design,
        "scale": scale,
        "seed": 0,
        "reason": "",
        "predicted_cost": 1.0,
        "number": 0,
        "horizons": [scale.tokens],
        "run_key": problem.context or "0123abcd",
    }
    trial = Trial.model_validate(content)
    with pytest.raises(ValidationError, match="run_key"):
        Trial.model_validate_json(json.dumps({**trial.model_dump(mode="json"), "run_key": name}))


def test_every_file_of_a_campaign_lies_in_its_folder(tmp_path: Path) -> None:
    spec = load_spec(preset_path("quickstart"), [f"folder={tmp_path}/x/../campaign"])
    workspace = Workspace(spec)
    paths = [value for value in vars(workspace).values() if isinstance(value, Path)]
    assert len(paths) > 10
    assert all(path.is_relative_to(workspace.folder) and ".." not in path.name for path in paths)


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "campaign.yaml").symlink_to(victim)
    write_text(tmp_path / "campaign.yaml", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "campaign.yaml").read_text() == "new"
    assert not (tmp_path / "campaign.yaml").is_symlink()


def test_a_link_among_checkpoints_is_dropped_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.safetensors"
    victim.write_bytes(b"mine")
    folder = CheckpointFolder(tmp_path / "checkpoints", "a")
    (tmp_path / "checkpoints" / "trunk-00000001.safetensors").symlink_to(victim)
    folder.drop_tensors()
    assert victim.read_bytes() == b"mine"


def test_servers_listen_on_this_machine_alone() -> None:
    assert inspect.signature(ui).parameters["host"].default == "127.0.0.1"
