"""Structured logs: every line is an object, whatever is said, and none holds a secret."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KEYS = {"time", "level", "event", "campaign", "trial", "worker", "message", "fields"}
SCRIPT = """
import logging, math, warnings
from moe_search.experiments.cli.console import error, note, warn
from moe_search.experiments.logging import about, event, start

start(as_json=True)
note("opens postgresql+psycopg://me:hunter2@host/db")
with about(campaign="c", worker="w"):
    with about(trial=3):
        event("measured", "two\\nlines", loss=math.nan, path=__file__, url="https://me:hunter2@host/", many=[1, (2.5,)])
    logging.getLogger("somebody").warning("hm %s", "\\udcff")
    warnings.warn("careful")
    try:
        raise ValueError("postgresql://me:hunter2@host")
    except ValueError:
        logging.getLogger("moe_search.x").exception("failed")
    warn("w")
    error("e")
raise RuntimeError("a bug at https://me:hunter2@host/")
"""


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(set(line) == KEYS for line in found)
    return found


def test_every_line_is_an_object_without_secrets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("path=__file__, ", "")], capture_output=True, text=True, check=False
    )
    assert "hunter2" not in done.stderr
    said = lines(done.stderr)
    events = [line["event"] for line in said]
    assert events == ["note", "measured", "log", "log", "log", "warning", "error", "crashed"]
    measured = said[1]
    assert (measured["campaign"], measured["worker"], measured["trial"]) == ("c", "w", 3)
    assert measured["fields"] == {"loss": None, "url": "https://***@host/", "many": [1, [2.5]]}
    assert said[2]["trial"] is None
    assert "careful" in said[3]["message"]
    assert "ValueError" in said[4]["fields"]["traceback"]
    assert [line["level"] for line in said[-3:]] == ["warning", "error", "critical"]
    assert said[-1]["campaign"] is None


def test_a_command_that_is_refused_says_so_in_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moe_search", "count", "absent.yaml"]
    for variable, code in (("json", 2), ("xml", 2)):
        environment = {**os.environ, "MOE_SEARCH_LOG": variable}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code
        if variable == "json":
            (line,) = lines(done.stderr)
            assert line["event"] == "error"
            assert "absent.yaml" in line["message"]
        else:
            assert done.stderr.startswith("error: MOE_SEARCH_LOG is 'xml'")
