"""``moe-search bench``: kernels, training steps, fits and searches next to what others would do."""

from collections.abc import Mapping as Map
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moe_search.experiments.cli.console import note, out, print_json, warn
from moe_search.experiments.cli.fit import Mapping, Where
from moe_search.experiments.cli.options import Json

if TYPE_CHECKING:
    from moe_search.experiments.benchmarks.fits import FitReport
    from moe_search.experiments.benchmarks.report import Report
    from moe_search.experiments.benchmarks.search import SearchReport

KINDS: Map[str, tuple[str, ...]] = {
    "runs": ("fit",),
    "law": ("fit",),
    "mapping": ("fit",),
    "where": ("fit",),
    "resamples": ("fit",),
    "peer_starts": ("fit",),
    "peer_python": ("fit",),
    "family": ("kernels",),
    "skew": ("kernels",),
    "seq_len": ("step",),
    "processes": ("step",),
    "designs": ("step",),
    "worlds": ("search",),
    "policy": ("search",),
    "spec": ("search",),
    "repeats": ("kernels", "step", "fit"),
    **dict.fromkeys(("shape", "tokens", "dtype", "device", "threads", "only", "store"), ("kernels", "step")),
}
"""Whose option each is; the others are everybody's."""
FIT_REPEATS = 3


def bench(
    context: typer.Context,
    what: Annotated[
        Literal["kernels", "step", "fit", "search"],
        typer.Argument(
            help="kernels: single layers, backend by backend; step: training steps; fit: a law with its resamples; "
            "search: our search and others in drawn worlds."
        ),
    ],
    runs: Annotated[
        Path | None,
        typer.Argument(help="A table of runs (fit). Default: runs that each law itself has made.", metavar="RUNS"),
    ] = None,
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
    repeats: Annotated[int, typer.Option(help="Timed rounds. Default for fit: 3.", min=1)] = 7,
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
    law: Annotated[
        list[str] | None, typer.Option(help="A law (fit); repeatable. Default: chinchilla.", metavar="NAME")
    ] = None,
    mapping: Mapping = None,
    where: Where = None,
    resamples: Annotated[int, typer.Option(help="Of whole runs, for intervals (fit).", min=0)] = 1000,
    peer_starts: Annotated[
        int, typer.Option(help="SciPy takes so many of our starts (fit); 0 leaves it out.", min=0)
    ] = 128,
    peer_python: Annotated[
        Path | None,
        typer.Option(help="An interpreter with the packages chinchilla and simple-scaling-laws (fit).", metavar="FILE"),
    ] = None,
    worlds: Annotated[int, typer.Option(help="Drawn worlds (search), by seeds from --seed on.", min=1)] = 20,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A baseline (search); repeatable. Default: all but the slow ones.", metavar="NAME"),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A campaign with the space, ladder and budget (search). Default: quickstart.", metavar="SPEC"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of inputs, routing, designs, starts, resamples and worlds.", min=0)] = 0,
    store: Annotated[
        bool, typer.Option("--store", help="Keep our times, so that campaigns can price shapes with them.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a dated JSON file and a chart into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Time kernels, whole training steps or the fit of a scaling law, or let searches compete in drawn worlds.

    Threads are pinned, routing is new at every step, contestants take turns within a round, and ratios are taken
    within rounds, so that a busy machine disturbs them little. Still: leave the machine alone while it measures.

    [bold]Examples[/bold]

      moe-search bench kernels --family moe_ffn --shape 256,64,8,64 --dtype float32 --dtype bfloat16
      moe-search bench kernels --skew 8 --out benchmarks/results
      moe-search bench step --processes 2 --json
      moe-search bench step --designs 30 --store
      moe-search bench fit table.csv --law chinchilla --map 'n_total="Model Size"' --peer-python peers/bin/python
      moe-search bench fit --law joint_moe --law joint --peer-starts 32
      moe-search bench search --worlds 50 -o benchmarks/results
    """
    _check_owner(context, what)
    if output is not None:
        from moe_search.experiments.workspace import check_writable

        check_writable(output)
    if what == "search":
        _finish(_search(spec, policy, worlds=worlds, seed=seed), output, json=json)
        return
    if what == "fit":
        from moe_search.experiments.benchmarks.fits import SIMULATED, WantedFits, benchmark_fits
        from moe_search.experiments.tables import parse_mapping, read_table

        table = None if runs is None else read_table(runs, mapping=parse_mapping(mapping or ()), where=where)
        for line in table.notes if table else ():
            note(line)
        for line in table.warnings if table else ():
            warn(line)
        _finish(
            benchmark_fits(
                WantedFits(
                    laws=tuple(dict.fromkeys(law or ("chinchilla",))),
                    resamples=resamples,
                    repeats=repeats if _given(context, "repeats") else FIT_REPEATS,
                    peer_starts=peer_starts,
                    peer_python=peer_python,
                    seed=seed,
                ),
                table.frame if table else None,
                SIMULATED if runs is None else runs.name,
                note,
            ),
            output,
            json=json,
        )
        return
    from moe_search.experiments.benchmarks.measuring import Outcome
    from moe_search.experiments.benchmarks.report import case_table
    from moe_search.experiments.benchmarks.running import Wanted, benchmark, parse_shape
    from moe_search.experiments.benchmarks.running import store as keep
    from moe_search.proxies.corpus import default_cache

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
    if store:
        for path in keep(report, default_cache()):
            note(f"stored: {path}")
    _finish(report, output, json=json)


def _search(spec: Path | None, policies: list[str] | None, *, worlds: int, seed: int) -> "SearchReport":
    from moe_search.experiments.benchmarks.search import POLICIES, benchmark_search
    from moe_search.experiments.opening import planned_problem
    from moe_search.experiments.presets.catalogue import preset_path
    from moe_search.experiments.spec.loading import load_spec

    campaign = load_spec(spec or preset_path("quickstart"))
    return benchmark_search(
        campaign.name, planned_problem(campaign), policies=policies or POLICIES, worlds=worlds, first=seed, log=note
    )


def _finish(report: "Report | FitReport | SearchReport", output: Path | None, *, json: bool) -> None:
    """Keep and print what was measured."""
    if output is not None:
        for path in report.save(output):
            note(f"written: {path}")
    if json:
        print_json(report.as_json())
        return
    for table in report.tables():
        out.print(table)


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option or argument."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_owner(context: typer.Context, what: str) -> None:
    """Refuse what another kind of benchmark would need: it would be ignored."""
    from moe_search.spaces.errors import InvalidInputError

    for parameter in context.command.params:
        owners = KINDS.get(parameter.name or "", (what,))
        if what not in owners and _given(context, parameter.name or ""):
            shown = parameter.opts[0] if parameter.param_type_name == "option" else "RUNS"
            raise InvalidInputError(f"bench {what} has no such option", where=shown, allowed=f"bench {owners[0]}")
