from pathlib import Path

import pytest

from moe_search.experiments.spec.document import Document, parse_value
from moe_search.spaces.errors import InvalidInputError

TEXT = """\
name: first
space:
  granularity: {low: 1, high: 4}
  schedule:
    choices:
      - uniform
      - wave
budget:
  train_flops: 1e14
"""


def document(text: str = TEXT) -> Document:
    return Document.parse(text, Path("campaign.yaml"))


def test_exponents_without_a_dot_are_numbers() -> None:
    assert document().data["budget"]["train_flops"] == 1e14
    assert parse_value("2E-3") == 2e-3
    assert parse_value("1e5x") == "1e5x"
    assert parse_value("12") == 12
    assert isinstance(parse_value("12"), int)


@pytest.mark.parametrize(
    ("location", "where"),
    [
        (("space", "granularity", "range", "low"), "campaign.yaml:3: space.granularity.low"),
        (("space", "schedule", "choices", "choices", 1), "campaign.yaml:7: space.schedule.choices.1"),
        (("budget", "train_flops"), "campaign.yaml:9: budget.train_flops"),
        (("budget", "max_minutes"), "campaign.yaml:8: budget"),
        ((), "campaign.yaml:1"),
    ],
)
def test_a_location_has_its_line(location: tuple[int | str, ...], where: str) -> None:
    assert document().where(location) == where


def test_overrides_are_yaml_typed_and_leave_the_original_alone() -> None:
    original = document()
    changed = original.override(["budget.train_flops=2e15", "workers.count=3", "space.schedule=wave", "name="])
    assert changed.data["budget"] == {"train_flops": 2e15}
    assert changed.data["workers"] == {"count": 3}
    assert changed.data["space"]["schedule"] == "wave"
    assert changed.data["name"] is None
    assert original.data["budget"] == {"train_flops": 1e14}
    assert "workers" not in original.data


def test_an_overridden_field_is_placed_on_the_command_line() -> None:
    changed = document().override(["budget.train_flops=-1"])
    assert changed.where(("budget", "train_flops")) == "--set budget.train_flops"
    assert changed.where(("name",)).startswith("campaign.yaml:1")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("budget", "is not a setting"),
        ("=3", "is not a setting"),
        ("a..b=3", "is not a setting"),
        ("name.first=3", "plain value"),
        ("name=[1", "not a YAML value"),
    ],
)
def test_a_bad_setting_is_refused(setting: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        document().override([setting])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", r"campaign.yaml:3: a is given twice, first on line 1"),
        ("a: [1, 2\nb: 3\n", r"campaign.yaml:2: not valid YAML"),
        ("- a\n- b\n", "no fields at its top level"),
        ("", "no fields at its top level"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        document(text)


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(TEXT)
    with pytest.raises(InvalidInputError, match=r"nearest fix: .*campaign\.yaml"):
        Document.read(tmp_path / "campain.yaml")
    with pytest.raises(InvalidInputError, match="is a folder"):
        Document.read(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        Document.read(path)
