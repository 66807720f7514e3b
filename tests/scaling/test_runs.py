import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.scaling.runs import SCHEMA, concat, frame_to_runs, read_runs, runs_to_frame, write_runs
from moe_search.spaces.errors import InvalidInputError, ResourceError
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.run import Run

positive = st.floats(1e-3, 1e3)
domains = st.sets(st.sampled_from(["code", "news", "science", "web/2"]), min_size=1)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    names = draw(domains)
    weights = {name: draw(st.floats(0, 1)) for name in names}
    mixture = Mixture.normalised(weights) if sum(weights.values()) > 0 else Mixture.uniform(tuple(names))
    return Run(
        run_key=draw(st.text("abcdef0123456789", min_size=16, max_size=16)),
        trial=draw(st.none() | st.integers(0, 999)),
        status=draw(st.sampled_from(["finished", "diverged", "truncated", "oom"])),
        seed=draw(st.integers(0, 2**31)),
        d_model=64,
        n_layers=4,
        n_heads=4,
        vocab_size=4096,
        seq_len=256,
        n_moe_layers=3,
        n_experts=draw(st.floats(0, 64)),
        top_k=2,
        d_expert=32,
        n_shared_experts=draw(st.integers(0, 2)),
        experts_per_layer=tuple(draw(st.lists(st.integers(0, 64), max_size=4))),
        router="softmax_topk",
        balancing="aux_loss",
        n_active=300_000,
        n_total=10**13,
        n_active_non_embedding=100_000,
        n_total_non_embedding=800_000,
        granularity=draw(positive),
        activation_ratio=0.25,
        expansion=4.0,
        tokens=draw(st.integers(1, 10**12)),
        batch_tokens=4096,
        learning_rate=draw(positive),
        mixture=mixture,
        epochs={name: draw(positive) for name in names},
        train_flops=draw(st.floats(1e9, 1e25)),
        paid_flops=1e9,
        loss=draw(st.none() | positive),
        bpb=draw(st.none() | positive),
        domain_bpb={name: draw(positive) for name in draw(domains)},
        expert_load=tuple(tuple(row) for row in draw(st.lists(st.lists(positive, max_size=3), max_size=2))),
        message=draw(st.text(max_size=5)),
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(runs(), max_size=4))
def test_runs_survive_the_frame_and_parquet_exactly(tmp_path_factory: pytest.TempPathFactory, some: list[Run]) -> None:
    frame = runs_to_frame(some)
    assert frame.schema.names()[: len(SCHEMA)] == list(SCHEMA)
    assert frame_to_runs(frame) == some
    path = tmp_path_factory.mktemp("runs") / "deep" / "runs.parquet"
    write_runs(frame, path)
    assert frame_to_runs(pl.read_parquet(path)) == some
    assert [p.name for p in path.parent.iterdir()] == ["runs.parquet"], "a temporary file was left behind"


@settings(max_examples=10, deadline=None)
@given(runs(), runs())
def test_tables_of_different_domains_stack(one: Run, other: Run) -> None:
    assert frame_to_runs(concat([runs_to_frame([one]), runs_to_frame([other])])) == [one, other]


def test_zero_weight_is_not_a_missing_domain() -> None:
    schema_row = {"mixture": {"a": 1.0, "b": 0.0}}
    run = _run(schema_row)
    assert runs_to_frame([run])["weight/b"].to_list() == [0.0]
    assert runs_to_frame([run, _run({"mixture": {"a": 1.0}})])["weight/b"].to_list() == [0.0, None]


def _run(changes: dict[str, object]) -> Run:
    return Run.model_validate(
        {
            "run_key": "0",
            "status": "finished",
            "seed": 0,
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 256,
            "seq_len": 64,
            "n_moe_layers": 2,
            "n_experts": 4.0,
            "top_k": 1,
            "d_expert": 32,
            "n_shared_experts": 0,
            "experts_per_layer": (4, 4),
            "router": "random",
            "balancing": "none",
            "n_active": 10,
            "n_total": 20,
            "n_active_non_embedding": 5,
            "n_total_non_embedding": 15,
            "granularity": 1.0,
            "activation_ratio": 0.25,
            "expansion": 4.0,
            "tokens": 100,
            "batch_tokens": 10,
            "learning_rate": 0.01,
            "mixture": {"a": 1.0},
            "train_flops": 6e3,
            "paid_flops": 6e3,
            **changes,
        }
    )


def test_somebody_elses_table_is_not_runs() -> None:
    with pytest.raises(InvalidInputError, match="lacks run_key"):
        frame_to_runs(pl.DataFrame({"loss": [1.0]}))


def test_a_folder_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write_runs(pl.DataFrame({"a": [1]}), tmp_path / "file" / "runs.parquet")


CSV = "Model Size,Training FLOP,Loss,kind\n1e9,6e19,2.5,a\n2e9,2.4e20,2.3,b\n"


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_reads_the_same(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"runs.{form}"
    rows = [
        {"Model Size": 1e9, "Training FLOP": 6e19, "Loss": 2.5},
        {"Model Size": 2e9, "Training FLOP": 2.4e20, "Loss": 2.3},
    ]
    text = CSV if form.startswith("csv") else "\n".join(json.dumps(row) for row in rows)
    if form == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if form.endswith(".gz") else text.encode())
    table = read_runs(
        path, mapping={"n_total": '"Model Size"', "train_flops": '"Training FLOP"', "tokens": "train_flops/(6*n_total)"}
    )
    assert table.frame["tokens"].to_list() == pytest.approx([1e10, 2e10])
    assert table.frame["n_active"].to_list() == [1e9, 2e9]
    assert any("n_active = n_total" in note for note in table.notes)


def test_flops_are_derived_and_said(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("n_active,tokens,loss\n1000000000,10000000000,2.5\n")
    table = read_runs(path)
    assert table.frame["train_flops"][0] == pytest.approx(6e19)
    assert any("6 n_active tokens" in note for note in table.notes)


def test_integer_columns_do_not_overflow(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("n,d,loss\n1000000000,10000000000,2.5\n")
    table = read_runs(path, mapping={"n_active": "n", "tokens": "d", "train_flops": "6*n*d"})
    assert table.frame["train_flops"][0] == pytest.approx(6e19)


def test_numbers_in_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text('n_active,tokens,loss\n"1,000,000"," 1.2e9 ",2.5\n"2e6","3e9",2.4\n')
    table = read_runs(path)
    assert table.frame["n_active"].to_list() == [1e6, 2e6]
    assert table.frame["tokens"].to_list() == [1.2e9, 3e9]
    assert table.notes[0] == (
        "columns 'n_active' (1,000,000 as 1000000), 'tokens' are texts that hold numbers; they are read as numbers"
    )


def test_where_sees_mapped_columns_and_constants_broadcast(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(CSV)
    table = read_runs(
        path, mapping={"n_active": '"Model Size"', "tokens": "1e9", "loss": "Loss"}, where="n_active > 1.5e9"
    )
    assert table.frame["loss"].to_list() == [2.3]
    assert any(note.startswith("--where kept 1 of ") and "n_active > 1.5e9" in note for note in table.notes)
    assert table.frame["tokens"].to_list() == [1e9]


@pytest.mark.parametrize(
    ("text", "keywords", "message"),
    [
        (
            CSV,
            {"mapping": {"n_total": "model_size"}},
            r"no column 'model_size'.*'Model Size'.*nearest fix: \"Model Size\"",
        ),
        (CSV, {"mapping": {"n_total": "Model Size"}}, r"nearest fix: \"Model Size\", in double quotes"),
        (CSV, {"where": 'kind = "good"'}, r"no column 'good'.*nearest fix: 'good', in single quotes"),
        (CSV, {"mapping": {"n_total": "6*("}}, r"--map n_total: cannot evaluate"),
        (CSV, {"mapping": {"n_total": "kind + 1"}}, r"cannot evaluate|not a number"),
        (CSV, {"where": "Loss + 1"}, r"--where: 'Loss \+ 1' is .*not a condition"),
        (CSV, {"where": "Loss > 9"}, r"none of the 2 rows"),
        ("loss\n2.5\n-1\n", {}, r"1 of 2 rows have a loss that is not positive \(row 2 .*: -1\).*--where 'loss > 0'"),
        ("loss\n-2.5\n-1\n", {}, r"2 of 2 rows .*--map 'loss=-loss' if it is a log likelihood"),
        ("loss,n_active\n2.5,3\n2.4,lots\n", {}, r'"lots" is not a number \(row 2\).*TRY_CAST\(n_active AS DOUBLE'),
        ("loss,tokens\n2.5,2B\n2.4,4.5B\n", {}, r"tokens=CAST\(REPLACE\(tokens, 'B', ''\) AS DOUBLE\) \* 1e9"),
        ("loss;tokens\n2,5;3\n2,45;4\n", {}, r"loss=CAST\(REPLACE\(loss, ',', '.'\) AS DOUBLE\)"),
        ("loss,tokens\n2.5,many\n", {}, r"--map 'tokens=...' from a column of numbers"),
        ("# a tool\nloss,tokens\n2.5,3\n", {}, r"line 2 has 2 fields, and the first line has 1 names; nearest fix"),
        ("loss\n", {}, r"has no rows"),
    ],
)
def test_bad_tables_are_refused_with_a_way_out(
    tmp_path: Path, text: str, keywords: dict[str, object], message: str
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_runs(path, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("loss,tokens\n2.5,2B\n2.4,4.5B\n", "CAST(REPLACE(tokens, 'B', '') AS DOUBLE) * 1e9"),
        ("loss,tokens\n2.5,2e9 tok\n2.4,4.5e9 tok\n", "CAST(REPLACE(tokens, ' tok', '') AS DOUBLE)"),
        ("loss;tokens\n2.5;2000000000,0\n2.4;4500000000,0\n", "CAST(REPLACE(tokens, ',', '.') AS DOUBLE)"),
        ("loss\ttokens\n2.5\t2e9\n2.4\t4.5e9\n", "tokens"),
    ],
)
def test_what_an_error_advises_makes_numbers(tmp_path: Path, text: str, expression: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    assert read_runs(path, mapping={"tokens": expression}).frame["tokens"].to_list() == [2e9, 4.5e9]


def test_a_comma_in_a_number_is_said(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text('loss,tokens\n2.5,"2,500"\n2.4,3000\n')
    assert read_runs(path).notes == (
        "column 'tokens' is text that holds numbers; it is read as numbers (2,500 as 2500)",
    )


def test_text_among_numbers_can_be_cast_away_as_the_error_says(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("loss,n_active\n2.5,3\n2.4,lots\n")
    table = read_runs(path, mapping={"n_active": "TRY_CAST(n_active AS DOUBLE)"})
    assert table.frame["n_active"].to_list() == [3.0, None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "there is no file"),
        ("runs.txt", "x", "not a table that can be read"),
        ("runs.xlsx", "x", "nearest fix: save it as CSV"),
        ("runs.csv", "lo\0ss", "is not UTF-8 text"),
        ("runs.parquet", "not parquet", "not a valid parquet file"),
        ("runs.jsonl", "{", "not a valid jsonl file"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        read_runs(tmp_path / name)
