"""500 mutated specifications: each is one that can be, or is refused in one sentence; nothing is written."""

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from moe_search.experiments.presets.catalogue import preset_names, preset_text
from moe_search.experiments.spec.checks import check_possible
from moe_search.experiments.spec.loading import load_spec

COUNT = 500
THROUGH_THE_COMMAND = 2
VALUES = """\
null|true|.nan|.inf|-1|0|1e309|-1e308|[]|{}|''|'\\0'|"\\ud800"|99999999999999999999|2020-01-01|2020-13-45|!!binary aGk=|
!!set {a, b}|[[[[1]]]]|{low: 2, high: 1}|{choices: []}|{choices: [1, 1]}|{choices: [a, 1, null]}|{low: .nan, high: 3}|
*x|&x 1|&x [*x]|? a|- 1|\t|%|@|`|>|1:|<<: {a: 1}|~|0x10|'a'*|2e400|{low: 0, high: 1, log: true}|[1, 2|}|
{low: 1e-320, high: 1e308, log: true}|!!python/name:os.system|${HOME}|postgresql://a:b@c/d""".replace("\n", "").split(
    "|"
)
CHARACTERS = [*map(chr, range(32, 127)), "\0", "\t", "\x85", "\u2028", "\ud7ff", "\ufeff", "\U0001f600"]
NUMBER = re.compile(r"\d[\d_.e+-]*")


def mutated(text: str, draw: random.Random) -> str:
    """Return a text in which up to three lines have another value, indent or place, or a character more."""
    lines = text.splitlines()
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        place = draw.randrange(len(lines))
        line = lines[place]
        column = draw.randrange(len(line) + 1)
        match draw.randrange(9):
            case 0 | 1 | 2 if ":" in line:
                lines[place] = f"{line.partition(':')[0]}: {draw.choice(VALUES)}"
            case 3:
                del lines[place]
            case 4:
                lines.insert(place, draw.choice(lines))
            case 5:
                lines[place] = " " * draw.randrange(5) + line.lstrip()
            case 6:
                lines[place] = line[:column] + draw.choice(CHARACTERS) + line[column:]
            case 7:
                lines[place] = line[:column]
            case _:
                lines[place] = NUMBER.sub(draw.choice(VALUES).replace("\\", ""), line, count=1)
    return "\n".join(lines)


def test_every_specification_can_be_or_is_refused(tmp_path: Path, monkeypatch: Any, refuses: Any) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [preset_text(name) for name in preset_names()]
    path = tmp_path / "campaign.yaml"
    outcomes, seeds = [], []
    for seed in range(COUNT):
        draw = random.Random(seed)
        path.write_bytes(mutated(draw.choice(texts), draw).encode("utf-8", "surrogatepass"))
        outcomes.append(refuses(lambda: check_possible(load_spec(path)), f"specification {seed}"))
        if outcomes[-1]:
            seeds.append(path.read_bytes())
    assert [found.name for found in tmp_path.iterdir()] == ["campaign.yaml"]
    assert 0.2 < sum(outcomes) / COUNT < 0.9, "the mutations are neither harmless nor hopeless"
    for content in seeds[:: len(seeds) // THROUGH_THE_COMMAND][:THROUGH_THE_COMMAND]:
        path.write_bytes(content)
        command = [sys.executable, "-m", "moe_search", "run", "campaign.yaml"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert said.returncode in {1, 2}, said.stderr
        assert said.stderr.startswith("error: ")
        assert len(said.stderr.splitlines()) == 1
        assert said.stdout == ""
        assert [found.name for found in tmp_path.iterdir()] == ["campaign.yaml"]
