"""The reference pages name everything that there is, with its default, and nothing else."""

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from moe_search.experiments.cli import main
from moe_search.experiments.cli.app import app
from moe_search.experiments.cli.exits import ExitCode
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.document import parse_value
from moe_search.proxies.corpus.manifest import Manifest
from moe_search.scaling.recommendation import Choice, Recommendation
from moe_search.scaling.runs import PER_DOMAIN, SCHEMA
from moe_search.search.replay.policies import policy_names
from moe_search.search.status import Status
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.knobs import Choices, Range


def rows(page: Path) -> dict[str, list[str]]:
    """Return the cells of every table row that begins with a name in backticks, by that name."""
    found = {}
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            name = cells[0].strip("|` ")
            assert name not in found, f"{page.name} has two rows for {name}"
            found[name] = cells[1:]
    return found


def blocks_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the blocks of a campaign that an annotation names; knobs are values."""
    if inspect.isclass(annotation):
        if issubclass(annotation, Frozen) and not issubclass(annotation, (Choices, Range)):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from blocks_in(argument)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its default: ``...`` where it is required, the class where it is a block."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        yield key, type(default) if isinstance(default, Frozen) else default
        if key != "target_shape":  # has the keys of shape
            for block in blocks_in(field.annotation):
                yield from keys(block, f"{key}.")


def test_every_key_of_a_campaign_is_documented_with_its_default(docs: Path) -> None:
    documented, known = rows(docs / "reference" / "campaign.md"), dict(keys(Spec))
    assert sorted(documented) == sorted(known)
    for key, default in known.items():
        shown = documented[key][1].strip("`")
        if inspect.isclass(default):
            assert shown == "block", key
        elif default is ...:
            assert shown == "required", key
        elif shown == "fitted":  # constants that a sweep gave
            assert key.startswith("training.learning_rate_rule."), key
        elif isinstance(default, float):
            assert math.isclose(parse_value(shown), default, rel_tol=1e-4), key
        else:
            assert parse_value(shown) == (list(default) if isinstance(default, tuple) else default), key


def test_every_column_of_the_runs_table_is_documented_with_its_type(docs: Path) -> None:
    documented = rows(docs / "reference" / "runs-table.md")
    spread = {f"{prefix}<domain>": "Float64" for prefix in PER_DOMAIN.values()}
    known = {name: str(dtype) for name, dtype in SCHEMA.items()} | spread
    assert {name: cells[0] for name, cells in documented.items()} == known


def sections(page: Path) -> dict[str, str]:
    """Return the text under each verb's heading."""
    found = re.split(r"^### `moe-search (\w+)[^`]*`$|^## .*$", page.read_text(), flags=re.MULTILINE)
    return {name: text for name, text in zip(found[1::2], found[2::2], strict=True) if name}


def test_every_verb_and_option_is_documented(docs: Path) -> None:
    documented = sections(docs / "reference" / "cli.md")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(documented) == sorted(commands)
    for verb, command in commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for option in parameter.opts:
                    assert f"`{option}" in documented[verb], f"{verb} {option}"
        shown = {option for option in re.findall(r"`(--[a-z-]+)", documented[verb]) if option != "--help"}
        assert shown <= {option for parameter in command.params for option in parameter.opts}, verb


def test_every_exit_code_is_documented(docs: Path) -> None:
    text = (docs / "reference" / "cli.md").read_text()
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == set(map(int, ExitCode))


def test_the_names_in_json_are_documented(
    docs: Path,
    folder: Path,
    tiny_campaign: None,
    capsys: pytest.CaptureFixture[str],
    blocks: Callable[[str], list[Any]],
) -> None:
    table = next(block.text for block in blocks("tutorial.md") if block.file == "runs.csv")
    (folder / "runs.csv").write_text(table)
    mapping = ["--map", 'n_total="params (M)" * 1e6', "--map", "tokens=GTok * 1e9", "--map", 'loss="val loss"']

    def printed(*arguments: str) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    fits = printed("fit", "runs.csv", "--law", "chinchilla", "--resamples", "20", "-o", "fit.json", *mapping)
    (folder / "replayed").mkdir()
    for block in blocks("how-to/replay.md"):
        if block.file:
            (folder / "replayed" / block.file).write_text(block.text)
    replayed = printed("replay", "replayed/task.yaml", "--policy", "random", "--seeds", "2")
    known = {
        "count": set(printed("count", "Mixtral-8x7B")),
        "plan": set(printed("plan", "mine/campaign.yaml")),
        "status": {"name", "folder", *Status.model_fields},
        "corpus": {"root", *Manifest.model_fields},
        "fit": set(fits[0]),
        "import": set(printed("import", "csv", "runs.csv", "-o", "runs.parquet", *mapping)),
        "doctor": set(printed("doctor")),
        "bench": set(
            printed(
                *("bench", "kernels", "--family", "moe_ffn", "--shape", "16,4,2,8", "--tokens", "64"),
                *("--repeats", "1", "--only", "grouped"),
            )
        ),
        "replay": set(replayed),
        "recommend": set(printed("recommend", "fit.json", "--train-flops", "1e21")),
        "audit": set(printed("audit", "fit.json", "--model", "DBRX")[0]),
    }
    documented = rows(docs / "reference" / "cli.md")
    assert {verb: set(re.findall(r"`(\w+)`", documented[verb][1])) for verb in known} == known
    assert set(documented) == set(known)
    text = (docs / "reference" / "cli.md").read_text()
    for name in (*Choice.model_fields, *Recommendation.model_fields, *replayed["policies"]["random"]):
        assert f"`{name}`" in text, name


def test_every_policy_of_a_replay_is_documented(docs: Path) -> None:
    text = (docs / "how-to" / "replay.md").read_text()
    table = text[text.index("## Policies") :]
    shown = [re.findall(r"`(\w+)`", line.split(" | ")[0]) for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for names in shown for name in names) == sorted(policy_names())


def constant(name: str) -> tuple[float, ...]:
    """Return the number or numbers that a dotted name below ``moe_search`` stands for."""
    module, _, attribute = name.rpartition(".")
    if module.rpartition(".")[2][0].isupper():
        module, _, owner = module.rpartition(".")
        value = getattr(importlib.import_module(f"moe_search.{module}"), owner).model_fields[attribute].default
    else:
        value = getattr(importlib.import_module(f"moe_search.{module}"), attribute)
    return value if isinstance(value, tuple) else (value,)


def test_the_constants_of_the_policy_are_as_documented(docs: Path) -> None:
    documented = {name: cells for name, cells in rows(docs / "reference" / "how-it-decides.md").items() if "." in name}
    assert len(documented) > 15
    for name, (shown,) in documented.items():
        assert tuple(float(number) for number in shown.strip("| ").split(", ")) == constant(name), name
