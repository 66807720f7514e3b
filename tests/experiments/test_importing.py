"""``moe-search import``: tables, joins, curves, MLflow stores and W&B exports, through the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow import MlflowClient

from moe_search.experiments.cli import main
from moe_search.experiments.importers import get_importer, names
from moe_search.scaling.runs import read_runs
from moe_search.spaces.errors import InvalidInputError

Import = Callable[..., tuple[dict[str, Any], pl.DataFrame]]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    """Run ``import`` in the folder of the test, and return what it printed and the table it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[dict[str, Any], pl.DataFrame]:
        capsys.readouterr()
        assert main(["import", *arguments, "-o", "out/runs.parquet", "--json"]) == 0
        return json.loads(capsys.readouterr().out), read_runs("out/runs.parquet").frame

    return run


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``import``, see that it is refused and writes nothing, and return what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        code = main(["import", *arguments, "-o", "runs.parquet"])
        assert code == 2
        assert not Path("runs.parquet").exists()
        return capsys.readouterr().err

    return run


SIZES = "run,params (M),tokens,status\na,10,2e8,finished\nb,20,4e8,finished\nc,40,8e8,finished\nd,80,1e9,finished\n"


def test_a_table_is_mapped_and_the_rest_carried_along(imported: Import) -> None:
    Path("sizes.csv").write_text(
        "note,val,params (M),tokens\n" + "".join(f"x{k},{k}.5,{k}0,{k}e9\n" for k in (2, 3, 4))
    )
    done, table = imported(
        "csv", "sizes.csv", "--map", 'n_total="params (M)" * 1e6', "--map", "loss=val", "--where", "n_total > 2e7"
    )
    assert done["mapped"] == {"n_total": '"params (M)" * 1e6', "loss": "val"}
    assert (done["rows_read"], done["rows"]) == (3, 2)
    assert done["dropped"] == {"--where n_total > 2e7": 1}
    assert done["recognised"] == ["tokens"]
    assert done["derived"] == ["n_active", "train_flops"]
    assert done["carried"] == ["note", "val", "params (M)"]
    assert done["warnings"] == []
    assert table.columns == ["n_active", "n_total", "tokens", "train_flops", "loss", "note", "val", "params (M)"]
    assert table["n_total"].to_list() == [3e7, 4e7]
    assert table["train_flops"].to_list() == [6 * 3e7 * 3e9, 6 * 4e7 * 4e9]
    assert [path.name for path in Path("out").iterdir()] == ["runs.parquet"]


def test_what_was_done_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sizes.csv").write_text(SIZES + "d,80,1e9,finished\n")
    arguments = ["--map", 'n_total="params (M)" * 1e6', "-o", str(tmp_path / "runs.parquet")]
    assert main(["import", "csv", str(tmp_path / "sizes.csv"), *arguments]) == 0
    printed = capsys.readouterr()
    for text in ('n_total = "params (M)" * 1e6', "4 of 5 rows", "1 rows: repeats another row exactly", "n_active"):
        assert text in printed.out
    assert "warning: there is no loss yet, in nats a token or, as bpb, in bits a byte: --map 'loss=...'" in printed.err


def test_files_are_joined_by_the_column_they_share(imported: Import) -> None:
    Path("sizes.csv").write_text(SIZES)
    pl.DataFrame({"run": ["c", "a", "b"], "loss": [3.0, 4.0, 3.5], "tokens": [8e8, 2e8, 4e8]}).write_parquet(
        "l.parquet"
    )
    done, table = imported("csv", "sizes.csv", "l.parquet", "--join", "run", "--map", 'n_total="params (M)" * 1e6')
    assert table["loss"].to_list() == [4.0, 3.5, 3.0]
    assert table["run"].to_list() == ["a", "b", "c"]
    assert "left out, because l.parquet has no row with their run: 1 of 4 rows" in done["notes"]
    Path("f.csv").write_text("run,train_flops\na,1e16\nb,4e16\nc,1e17\n")
    _, table = imported("csv", "sizes.csv", "l.parquet", "f.csv", "--join", "run")
    assert table["train_flops"].to_list() == [1e16, 4e16, 1e17]


def test_of_curves_the_last_step_is_kept(imported: Import) -> None:
    curves = [f"{run},{step},{5 - step / 100 + k}" for step in (30, 10, 20) for k, run in enumerate("ab")]
    Path("curves.csv").write_text("run,step,loss\n" + "\n".join(curves) + "\nb,40,nan\n")
    Path("sizes.csv").write_text(SIZES)
    done, table = imported(
        "csv", "curves.csv", "sizes.csv", "--join", "run", "--last-of", "run", "--where", "loss < 99"
    )
    assert table.select("run", "step", "loss").rows() == [("a", 30, 4.7), ("b", 30, 5.7)]
    assert done["dropped"] == {"--where loss < 99": 1, "not the last step of its run": 4}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["csv", "sizes.csv", "losses.csv"], "--join: 2 files are one table only when joined"),
        (["csv", "sizes.csv", "losses.csv", "--join", "key"], "there is no column 'key'"),
        (["csv", "sizes.csv", "twice.csv", "--join", "run"], "1 rows of twice.csv have the same run"),
        (["csv", "sizes.csv", "other.csv", "--join", "run"], "the column 'tokens' of other.csv differs"),
        (["csv", "sizes.csv", "apart.csv", "--join", "run"], "no row of apart.csv has a run"),
        (["csv", "sizes.csv", "--join", "run"], "there is nothing to join with one file"),
        (["csv", "absent.csv"], "there is no file absent.csv; allowed: apart.csv"),
        (["csv", "sizes.csv", "--map", "n_total=parms"], 'nearest fix: "params (M)"'),
        (["csv", "sizes.csv", "--experiment", "x"], "--experiment: a table (CSV, JSONL, Parquet) has nothing for it"),
        (["csv", "sizes.csv", "--step", "tokens"], "--step: a step is of a run"),
        (["csv", "sizes.csv", "--last-of", "run", "--step", "status"], "--step: 'status' is String, not a number"),
        (["wandb", "sizes.csv", "losses.csv"], "an export is one file"),
        (["wandb", "absent.json"], "there is no file absent.json"),
        (["wandb", "broken.json"], "broken.json is not valid JSON"),
        (["wandb", "empty.json"], "empty.json holds no runs"),
        (["mlflow", "absent"], "there is no file or folder absent"),
        (["mlflow", "sqlite:///absent.db"], "there is no database absent.db"),
        (["neptune", "sizes.csv"], "there is no source 'neptune'; allowed: csv, mlflow, wandb"),
    ],
)
def test_what_cannot_be_imported_is_refused(arguments: list[str], said: str, refused: Callable[..., str]) -> None:
    Path("sizes.csv").write_text(SIZES)
    Path("losses.csv").write_text("run,loss\na,4\nb,3\n")
    Path("twice.csv").write_text("run,loss\na,4\na,3\n")
    Path("other.csv").write_text("run,tokens\na,1\n")
    Path("apart.csv").write_text("run,loss\nz,1\n")
    Path("broken.json").write_text("[{]")
    Path("empty.json").write_text("[]")
    assert said in refused(*arguments)


RUNS: list[dict[str, Any]] = [
    {
        "id": "r1",
        "name": "small",
        "state": "finished",
        "config": {"d_model": 64, "optim": {"lr": 0.01}, "betas": [0.9, 0.95], "_wandb": {"v": 1}},
        "summary": {"val/loss": 4.5, "tokens": 200_000_000, "_wandb": {"runtime": 3}},
    },
    {
        "id": "r2",
        "name": "big",
        "state": "crashed",
        "config": {"d_model": {"value": 128, "desc": None}, "optim": {"lr": 0.005}},
        "summary": {"val/loss": "NaN", "tokens": 100_000_000},
    },
]
MAP = (
    "--map",
    'loss="summary.val/loss"',
    "--map",
    'n_total=1e4 * "config.d_model"',
    "--map",
    'tokens="summary.tokens"',
)


def _json(path: str) -> None:
    Path(path).write_text(json.dumps(RUNS))


def _jsonl(path: str) -> None:
    """A run a line, with configuration and summary as text under the names of the public API's attributes."""
    lines = [
        {
            "id": run["id"],
            "name": run["name"],
            "state": run["state"],
            "json_config": json.dumps(run["config"]),
            "summary_metrics": json.dumps(run["summary"]),
        }
        for run in RUNS
    ]
    Path(path).write_text("\n".join(map(json.dumps, lines)))


def _csv(path: str) -> None:
    """The documentation's example: dictionaries as Python prints them."""
    rows = [{name: str(value).replace("'NaN'", "nan") for name, value in run.items()} for run in RUNS]
    pl.DataFrame(rows).with_row_index("").write_csv(path)


@pytest.mark.parametrize(("name", "write"), [("e.json", _json), ("e.jsonl", _jsonl), ("project.csv", _csv)])
def test_an_export_of_wandb_is_flattened(name: str, write: Callable[[str], None], imported: Import) -> None:
    write(name)
    done, table = imported("wandb", name, *MAP)
    assert table["name"].to_list() == ["small", "big"]
    assert table["status"].to_list() == ["finished", "truncated"]
    assert table["config.d_model"].to_list() == [64, 128]
    assert table["config.optim.lr"].to_list() == [0.01, 0.005]
    assert table["n_total"].to_list() == [640_000, 1_280_000]
    assert table["tokens"].to_list() == [2e8, 1e8]
    loss = table["loss"].to_list()
    assert loss[0] == 4.5
    assert loss[1] is None or loss[1] != loss[1], "a loss that is not a number stays none"
    assert not [column for column in table.columns if "_wandb" in column]
    assert "left out, because their values are no numbers or text: config.betas" in done["notes"]


def test_the_table_of_wandb_s_page_is_read(imported: Import) -> None:
    Path("page.csv").write_text(
        '"Name","State","Runtime","d_model","val/loss"\n"a","finished","10","64","4.5"\n"b","failed","3","128",""\n'
    )
    _, table = imported("wandb", "page.csv", "--map", 'loss="val/loss"')
    assert table["status"].to_list() == ["finished", "truncated"]
    assert table["loss"].to_list() == [4.5, None]


def test_a_chart_of_wandb_is_a_row_a_run_and_step(imported: Import) -> None:
    Path("chart.csv").write_text(
        '"Step","a - val/loss","a - val/loss__MIN","a - val/loss__MAX","b - c - val/loss","b - c - val/loss__MIN"\n'
        '"100","4.5","4.5","4.5","","x"\n"200","4.0","4.0","4.0","3.5","3.5"\n'
    )
    done, table = imported("wandb", "chart.csv", "--last-of", "Name", "--map", 'loss="val/loss"')
    assert table.select("Name", "step", "loss").rows() == [("a", 200, 4.0), ("b - c", 200, 3.5)]
    assert done["rows_read"] == 3
    assert "a chart of 2 curves over 'Step': a row is a run and step" in done["notes"]


def test_a_history_of_wandb_ends_at_the_last_step_with_a_loss(imported: Import) -> None:
    rows = [
        {"run": run, "_step": step, "_runtime": 1.5, "val/loss": None if step == 3 else 5.0 - step}
        for run in "ab"
        for step in (1, 2, 3)
    ]
    Path("history.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, table = imported(
        *("wandb", "history.jsonl", "--last-of", "run", "--where", "loss > 0", "--map", 'loss="val/loss"')
    )
    assert table.select("run", "_step", "loss").rows() == [("a", 2, 3.0), ("b", 2, 3.0)]


def test_broken_text_in_an_export_is_named(refused: Callable[..., str]) -> None:
    Path("p.csv").write_text("name,config,summary\na,\"{'d': 1}\",open\n")
    assert "p.csv, row 2, column 'summary': 'open' is no object" in refused("wandb", "p.csv")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mlflow.db``: two experiments, one run that failed and one that is deleted."""
    folder = tmp_path_factory.mktemp("store")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    for experiment, sizes in (("sweep", (1, 2, 4)), ("other", (8,))):
        key = client.create_experiment(experiment, artifact_location=folder.as_uri())
        for size in sizes:
            run = client.create_run(key, run_name=f"n{size}").info.run_id
            client.log_param(run, "n_params", size * 10**7)
            client.log_param(run, "optimizer", "adamw")
            for step in (1, 2):
                client.log_metric(run, "val_loss", 6 / size**0.1 / step**0.5, step=step)
            client.set_tag(run, "cluster", f"c{size}")
            client.set_terminated(run, "FAILED" if size == 4 else "FINISHED")
    deleted = client.create_run(key, run_name="deleted").info.run_id
    client.delete_run(deleted)
    return folder


def test_an_mlflow_store_is_read_in_all_its_forms(store: Path, imported: Import) -> None:
    mapping = ("--map", 'n_total="params.n_params"', "--map", 'loss="metrics.val_loss"', "--map", "tokens=2e8")
    tables = []
    for place in (str(store), str(store / "mlflow.db"), f"sqlite:///{store}/mlflow.db"):
        done, table = imported("mlflow", place, *mapping)
        assert done["rows"] == 4
        tables.append(table.sort("n_total"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    table = tables[0]
    assert table["n_total"].to_list() == [1e7, 2e7, 4e7, 8e7]
    assert table["loss"].to_list() == pytest.approx([6 / size**0.1 / 2**0.5 for size in (1, 2, 4, 8)])
    assert table["status"].to_list() == ["finished", "finished", "truncated", "finished"]
    assert table["run_name"].to_list() == ["n1", "n2", "n4", "n8"]
    assert table["tags.cluster"].to_list() == ["c1", "c2", "c4", "c8"]
    assert table["params.optimizer"].unique().to_list() == ["adamw"]
    assert (table["wall_seconds"] >= 0).all()
    _, table = imported("mlflow", str(store), "--experiment", "other", *mapping)
    assert table["run_name"].to_list() == ["n8"]


def test_a_folder_of_mlflow_s_own_files_is_read(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(Path.cwd() / "mlruns").as_uri())
    run = client.create_run(client.create_experiment("e")).info.run_id
    client.log_metric(run, "loss", 3.5)
    client.set_terminated(run)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    done, table = imported("mlflow", "mlruns", "--map", 'loss="metrics.loss"', "--map", "tokens=1e9")
    assert table["loss"].to_list() == [3.5]
    assert done["warnings"] == ["this is one run, and no law can be fitted to one: import all of them"]


def test_an_experiment_that_is_not_there_is_refused(store: Path, refused: Callable[..., str]) -> None:
    said = refused("mlflow", str(store), "--experiment", "swep")
    assert "there is no experiment 'swep'; allowed: Default, other, sweep; nearest fix: sweep" in said


def test_what_is_no_store_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database, " * 100)
    assert main(["import", "mlflow", str(tmp_path), "-o", str(tmp_path / "runs.parquet")]) == 1
    assert "cannot be read: file is not a database" in capsys.readouterr().err


def test_a_campaign_s_own_table_passes_through_a_fit_after_import(imported: Import, tmp_path: Path) -> None:
    rows = [
        f"{n}e7,{d}e8,{1.8 + 480 / (n * 1e7) ** 0.35 + 2000 / (d * 1e8) ** 0.37}" for n in (1, 2, 4) for d in (2, 9)
    ]
    Path("t.csv").write_text("N,D,loss\n" + "\n".join([*rows, "8e7,3e8,3.9", "9e7,4e8,3.7"]))
    imported("csv", "t.csv", "--map", "n_total=N", "--map", "tokens=D")
    assert main(["fit", "out/runs.parquet", "--law", "chinchilla", "--resamples", "10", "--json"]) == 0


def test_every_importer_is_a_file_with_a_read() -> None:
    for name in names():
        assert get_importer(name).title
    with pytest.raises(InvalidInputError, match="nearest fix: wandb"):
        get_importer("wanb")
