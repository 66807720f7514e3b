"""Secrets of a campaign are named in its file and live in the environment."""

from pathlib import Path

import pytest

from moe_search.experiments.presets.catalogue import preset_path
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.spec.loading import load_spec, resolved_text
from moe_search.spaces.errors import InvalidInputError


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_SEARCH_A", "p@ss/w:rd")
    monkeypatch.setenv("MOE_SEARCH_URL", "postgresql://me:x%40@host/db")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("postgresql://me:${MOE_SEARCH_A}@host/db", "postgresql://me:p%40ss%2Fw%3Ard@host/db"),
        ("${MOE_SEARCH_URL}", "postgresql://me:x%40@host/db"),
        ("http://host/${MOE_SEARCH_A}", "http://host/p@ss/w:rd"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("/a/path$", "/a/path$"),
    ],
)
def test_a_variable_is_looked_up(written: str, used: str) -> None:
    assert looked_up(written, where="storage") == used


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(InvalidInputError, match=r"storage: the environment variable NOT_SET is not set.*export"):
        looked_up("postgresql://me:${NOT_SET}@host/db", where="storage")


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        ("storage=postgresql+psycopg://moe:hunter2@database/moe", "MOE_SEARCH_DB_PASSWORD"),
        ("storage=postgresql+psycopg://moe@database/moe?password=hunter2", "MOE_SEARCH_DB_PASSWORD"),
        ("tracking.uri=https://moe:hunter2@mlflow.example", "MOE_SEARCH_MLFLOW_PASSWORD"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(setting: str, variable: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"has a secret in it.*nearest fix: .*\$\{{{variable}\}}") as refused:
        load_spec(preset_path("quickstart"), [setting])
    assert "hunter2" not in str(refused.value)


def test_the_copy_keeps_the_reference(tmp_path: Path) -> None:
    storage = "postgresql+psycopg://moe:${MOE_SEARCH_A}@database/moe"
    text = resolved_text(load_spec(preset_path("quickstart"), [f"storage={storage}"]), "a test")
    assert "${MOE_SEARCH_A}" in text
    assert "p@ss" not in text
    (tmp_path / "campaign.yaml").write_text(text)
    assert load_spec(tmp_path).storage == storage


@pytest.mark.parametrize("field", ["storage", "tracking.uri"])
def test_a_file_cannot_ask_for_other_variables(field: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot ask for the environment variable AWS_SECRET_ACCESS_KEY"):
        load_spec(preset_path("quickstart"), [f"{field}=postgresql://${{AWS_SECRET_ACCESS_KEY}}@example.org/x"])
