"""Learning rate, batch and size: the runs behind the default learning-rate rule.

Every cell of the grid is one architecture and batch; every cell is trained at each of its rates, on one trunk with a
decay branch at each token horizon. The table grows after every trunk, and what it has is not trained again:

    python -m moe_search.experiments.reproductions.learning_rate_sweep.sweep

The whole grid costs about 45 core-minutes. ``fit.py`` turns the table into the rule.
"""

import argparse
import time
from pathlib import Path

from moe_search.proxies.corpus import Corpus, CorpusConfig, default_cache, prepare_corpus
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.proxies.training.run import train_proxy
from moe_search.scaling.runs import concat, read_runs, runs_to_frame, write_runs
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.resolve import Resolved, ShapeRules, resolve, run_dimensions

TABLE = Path(__file__).with_name("runs.parquet")
HORIZONS = (2**17, 2**19)
"""Tokens; the shorter one costs its decay only."""
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
FINE_RATES = (0.0025, 0.005, 0.0071, 0.01, 0.0141, 0.02, 0.04)
"""Where the best rates of two widths are to be told apart."""


class Cell(Frozen):
    """One architecture and batch, and the rates it is trained at."""

    d_model: int
    n_layers: int = 4
    n_experts: int = 8
    """0: dense."""
    top_k: int = 2
    granularity: float = 2.0
    batch_tokens: int = 2048
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = (0,)

    def resolved(self, corpus: Corpus) -> Resolved:
        """Return the cell's architecture: the size is chosen so that ``resolve`` gives the width wanted."""
        is_dense = self.n_experts == 0
        design = Design(
            ffn="dense" if is_dense else "moe",
            granularity=1.0 if is_dense else self.granularity,
            n_experts=None if is_dense else self.n_experts,
            activation_ratio=1.0 if is_dense else self.top_k / self.n_experts,
            mixture=Mixture.uniform(corpus.domains),
        )
        n_active = self.n_layers * (12 * self.d_model**2 + (self.n_experts + 2) * self.d_model) + self.d_model
        resolved = resolve(design, Scale(n_active=n_active, tokens=HORIZONS[-1]), self.rules(corpus))
        assert (resolved.architecture.d_model, resolved.architecture.n_layers) == (self.d_model, self.n_layers)
        return resolved

    def rules(self, corpus: Corpus) -> ShapeRules:
        """Return shape rules that hold the depth."""
        return ShapeRules(
            vocab_size=corpus.vocab_size,
            seq_len=128,
            depth_coefficient=self.n_layers,
            depth_exponent=0,
            min_layers=self.n_layers,
        )


GRID = (
    Cell(d_model=64, rates=FINE_RATES),
    Cell(d_model=128, rates=FINE_RATES[:-1]),
    Cell(d_model=32),
    Cell(d_model=64, n_experts=32),
    Cell(d_model=64, n_experts=0),
    Cell(d_model=64, batch_tokens=1024),
    Cell(d_model=64, rates=(0.005, 0.01, 0.02), seeds=(1,)),
)
"""Three widths at one depth; dense, 8 and 32 experts, two batches and two seeds at one width."""


TRUNK = ("d_model", "n_layers", "n_experts", "top_k", "d_expert", "batch_tokens", "learning_rate", "seed")
"""Columns of the runs table that tell one trunk from another."""


def sweep(cells: tuple[Cell, ...], corpus: Corpus, table: Path) -> None:
    """Train what ``table`` does not have yet."""
    frame = read_runs(table).frame if table.exists() else runs_to_frame([])
    known = set(frame.select(TRUNK).iter_rows())
    trunks = [(cell, rate, seed) for cell in cells for seed in cell.seeds for rate in cell.rates]
    for number, (cell, rate, seed) in enumerate(trunks, start=1):
        recipe = TrainingRecipe(learning_rate=rate, batch_tokens=cell.batch_tokens, accelerator="cpu")
        resolved, context = cell.resolved(corpus), f"{recipe.fingerprint()}/{cell.rules(corpus).fingerprint()}"
        trunk = {
            **run_dimensions(resolved),
            "batch_tokens": cell.batch_tokens,
            "learning_rate": rate,
            "seed": seed,
        }
        if tuple(trunk[name] for name in TRUNK) in known:
            continue
        begun = time.perf_counter()
        runs = train_proxy(resolved, horizons=HORIZONS, corpus=corpus, recipe=recipe, seed=seed, context=context)
        frame = concat([frame, runs_to_frame(runs)])
        write_runs(frame, table)
        seconds = time.perf_counter() - begun
        losses = ", ".join(f"{run.loss:.4f}" if run.loss is not None else run.status for run in runs)
        print(
            f"{number}/{len(trunks)} {cell.model_dump_json()} {rate=} {seed=}: {losses} ({seconds:.0f} s)", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="Parquet file that grows")
    arguments = parser.parse_args()
    sweep(GRID, prepare_corpus(CorpusConfig(), default_cache()), arguments.table)
