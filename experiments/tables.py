"""Tables of runs as the command line names them: a file of anybody's, or a campaign's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_search.experiments.spec.loading import load_spec
from moe_search.scaling.runs import RunsTable, read_runs
from moe_search.spaces.errors import InvalidInputError


def parse_mapping(settings: Sequence[str]) -> dict[str, str]:
    """Return ``NAME=EXPR`` settings as a mapping, in their order.

    Raises:
        InvalidInputError: one has no ``=`` or no name.
    """
    mapping = {}
    for setting in settings:
        name, equals, expression = setting.partition("=")
        if not equals or not name.strip() or not expression.strip():
            raise InvalidInputError(
                f"{setting!r} is not a mapping", where="--map", allowed="NAME=EXPR, such as 'n_total=\"Model Size\"'"
            )
        mapping[name.strip()] = expression.strip()
    return mapping


def read_table(path: Path, *, mapping: Mapping[str, str], where: str | None) -> RunsTable:
    """Read a table of runs; a campaign's folder or specification stands for its ``runs.parquet``.

    Raises:
        InvalidInputError: there is none, or it cannot be read.
    """
    if path.suffix in {".yaml", ".yml"}:
        path = load_spec(path).folder
    if path.is_dir():
        inside = path / "runs.parquet"
        if not inside.exists():
            raise InvalidInputError(f"there is no runs.parquet in {path}", fix="moe-search run writes it")
        path = inside
    return read_runs(path, mapping=mapping, where=where)
