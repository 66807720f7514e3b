"""YAML, expressions and tables of others: nothing of them is executed, opens a file, or ends the process."""

from pathlib import Path

import polars as pl
import pytest

from moe_search.experiments.cli import main
from moe_search.experiments.presets.catalogue import preset_path, preset_text
from moe_search.experiments.spec.checks import check_names
from moe_search.experiments.spec.document import Document
from moe_search.experiments.spec.loading import load_spec
from moe_search.scaling.expression_law import ExpressionLaw
from moe_search.scaling.expressions import evaluate
from moe_search.search.launchers import options_class
from moe_search.spaces.errors import InvalidInputError

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LAW = "name: x\nparameters: {{E: {{center: 1.8, positive: true}}}}\nequation: {}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: !!python/object/apply:os.system [touch owned]", "python/object/apply:os.system"),
        ("name: !!python/name:os.system", "python/name"),
        ("name: !!python/module:os", "python/module"),
        ("name: !<tag:yaml.org,2002:python/object/new:os.system> [x]", "python/object/new"),
        ("name: !include /etc/passwd", "!include"),
        (LAUGHS, "aliases stand for more than 100,000 values"),
        ("name: &a [*a]", "stands within"),
        ("name: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("name: 2020-13-45", "cannot be read as timestamp"),
        ("name: " + "9" * 5000, "cannot be read as int"),
        ("name: !!int ''", "cannot be read as int"),
        ("name: \0", "special characters"),
    ],
)
def test_yaml_is_plain_data(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=r"^campaign.yaml.*not valid YAML") as refused:
        Document.parse(text, Path("campaign.yaml"))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidInputError):
        load_spec(preset_path("quickstart"), [text.replace("name: ", "name=", 1)])
    assert not list(tmp_path.iterdir())


def test_an_attack_through_the_command_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "campaign.yaml"
    text = preset_text("quickstart")
    path.write_text(text.replace("name: quickstart", f"name: !!python/object/apply:os.mkdir ['{tmp_path}/owned']"))
    assert main(["run", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {path}:")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "equation",
    [
        "__import__('os').system('touch owned') + E * n_active",
        "E + n_active.__class__",
        "E + [n_active for n_active in n_active][0]",
        "(lambda: n_active)() + E",
        "E + open('/etc/passwd') + n_active",
        "E if n_active else 1",
        "E + f'{n_active}'",
        "E + 9e999 * n_active",
        "E * " + "9" * 1900 + " + n_active",
        "(" * 500 + "E + n_active" + ")" * 500,
        "-" * 500 + "E + n_active",
        "E" + " + n_active" * 180,
    ],
)
def test_an_equation_is_arithmetic(equation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError) as refused:
        ExpressionLaw(LAW.format(f'"{equation}"'), where="law.yaml")
    assert len(str(refused.value)) < 400
    assert not list(tmp_path.iterdir())


SECRETS = [
    "n IN (SELECT q FROM read_csv('{}'))",
    "n IN (select q FROM read_csv('{}'))",
    "n IN (FROM read_csv('{}'))",
    "n IN ( \n FROM read_csv('{}'))",
    "n IN (/* */ FROM read_csv('{}'))",
    "n IN (-- ' \n SELECT q FROM read_csv('{}')) -- '",
    "(SELECT q FROM read_csv('{}'))",
    "EXISTS (SELECT q FROM read_csv('{}'))",
    "n = ANY(SELECT q FROM read_csv('{}'))",
    "n IN (WITH t AS (SELECT q FROM read_csv('{}')) SELECT q FROM t)",
    "n IN (VALUES (1) UNION ALL FROM read_csv('{}'))",
    "E'\\'' IN (SELECT q FROM read_csv('{}')) OR ''",
    "$$'$$ IN (SELECT q FROM read_csv('{}')) OR $$'$$",
    "`'` IN (SELECT q FROM read_csv('{}'))",
    "read_csv('{}')",
    "scan_parquet('{}')",
    "n FROM read_csv('{}')",
    "SELECT q FROM read_csv('{}')",
    "n; SELECT q FROM read_csv('{}')",
]


@pytest.mark.parametrize("expression", SECRETS)
def test_an_expression_opens_no_file(expression: str, tmp_path: Path) -> None:
    """A file that is not there would be looked for, and one that is there would be read."""
    frame = pl.DataFrame({"n": [1.0, 2.0]})
    secret = tmp_path / "secret.csv"
    for _ in range(2):
        with pytest.raises(InvalidInputError) as refused:
            evaluate(frame, expression.format(secret), where="--where")
        assert "No such file" not in str(refused.value)
        secret.write_text("q\n12345\n")
    assert "12345" not in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("n IN (1, 3)", [True, False]),
        ("n IS DISTINCT FROM 2", [True, False]),
        ("CASE WHEN n > 1\n THEN 10 ELSE 20 END", [20, 10]),
        ("SUBSTRING('selection' FROM 1 FOR 3)", ["sel", "sel"]),
    ],
)
def test_what_is_no_query_stays(expression: str, value: list[object]) -> None:
    try:
        found = evaluate(pl.DataFrame({"n": [1.0, 2.0]}), expression, where="--where")
    except InvalidInputError as error:
        assert "begins a query" not in str(error), "Polars may not know it, but we do not refuse it"  # noqa: PT017
    else:
        assert found.to_list() == value


def test_an_expression_cannot_be_so_deep_that_the_process_ends() -> None:
    with pytest.raises(InvalidInputError, match="40001 characters"):
        evaluate(pl.DataFrame({"n": [1.0]}), "n" + "+n" * 20_000, where="--map x")


@pytest.mark.parametrize("name", ["os", "../os", "..", "local.os", "__init__", "", "local/../ray"])
def test_a_name_imports_no_other_module(name: str) -> None:
    with pytest.raises(InvalidInputError, match="there is no launcher"):
        options_class(name)
    with pytest.raises(InvalidInputError, match="there is no preset"):
        preset_path(name)
    for field in (
        "laws=['{}']",
        "space.router='{}'",
        "space.balancing={{choices: [aux_loss, '{}']}}",
        "training.backend='{}'",
    ):
        with pytest.raises(InvalidInputError, match="there is no"):
            check_names(load_spec(preset_path("quickstart"), [field.format(name)]))
