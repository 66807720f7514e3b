"""``moe-search bench``: how fast kernels and training steps are here, next to what others would take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from moe_search.experiments.cli.console import note, out, print_json
from moe_search.experiments.cli.options import Json


def bench(
    what: Annotated[
        Literal["kernels", "step"],
        typer.Argument(help="kernels: single layers, backend by backend; step: whole training steps."),
    ],
    *,
    family: Annotated[
        list[str] | None, typer.Option(help="A kernel family (kernels); repeatable. Default: all.", metavar="NAME")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="moe_ffn: d_model,n_experts,top_k,d_expert; step: n_layers,d_model,n_heads,n_experts,top_k,d_expert,"
            "vocab_size. Repeatable. Default: the reference shapes.",
            metavar="N,N,...",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a run.", min=1)] = 4096,
    seq_len: Annotated[int, typer.Option(help="Tokens of a sequence (step).", min=2)] = 256,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 or bfloat16; repeatable. Default: float32.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads, pinned to as many cores.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds.", min=1)] = 7,
    skew: Annotated[
        float | None,
        typer.Option(help="Time our backends also with one expert of so many times the mean load (kernels).", min=1.0),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Contestants with this in their name; repeatable.", metavar="TEXT")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Measure so many processes side by side, too (step).", min=2)
    ] = None,
    designs: Annotated[
        int | None, typer.Option(help="Time our model on so many spread shapes instead (step).", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of inputs, routing and designs.", min=0)] = 0,
    store: Annotated[
        bool, typer.Option("--store", help="Keep our times, so that campaigns can price shapes with them.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a dated JSON file and a chart into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Time kernels or whole training steps, forward and backward, next to what others would take.

    Threads are pinned, routing is new at every step, contestants take turns within a round, and ratios are taken
    within rounds, so that a busy machine disturbs them little. Still: leave the machine alone while it measures.

    [bold]Examples[/bold]

      moe-search bench kernels --family moe_ffn --shape 256,64,8,64 --dtype float32 --dtype bfloat16
      moe-search bench kernels --skew 8 --out benchmarks/results
      moe-search bench step --processes 2 --json
      moe-search bench step --designs 30 --store
    """
    from moe_search.experiments.benchmarks.measuring import Outcome
    from moe_search.experiments.benchmarks.report import case_table
    from moe_search.experiments.benchmarks.running import Wanted, benchmark, parse_shape
    from moe_search.experiments.benchmarks.running import store as keep
    from moe_search.experiments.workspace import check_writable
    from moe_search.proxies.corpus import default_cache

    if output is not None:
        check_writable(output)

    def show(outcome: Outcome) -> None:
        if not json and not designs:
            out.print(case_table(outcome))

    report = benchmark(
        Wanted(
            what=what,
            families=family or (),
            shapes=[parse_shape(text) for text in shape or ()],
            only=only or (),
            dtypes=dtype or ("float32",),
            device=device,
            tokens=tokens,
            seq_len=seq_len,
            threads=threads,
            repeats=repeats,
            skew=skew,
            processes=processes,
            designs=designs,
            seed=seed,
        ),
        cache=default_cache(),
        log=note,
        show=show,
    )
    if output is not None:
        for path in report.save(output):
            note(f"written: {path}")
    if store:
        for path in keep(report, default_cache()):
            note(f"stored: {path}")
    if json:
        print_json(report.as_json())
        return
    for table in report.tables():
        out.print(table)
