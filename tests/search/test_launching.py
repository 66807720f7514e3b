"""What a worker said last."""

import json
from pathlib import Path

import pytest

from moe_search.search.launching import last_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one\nerror: the disk is full\n\n", "the disk is full"),
        (json.dumps({"level": "error", "message": "the disk is full"}) + "\n", "the disk is full"),
        ("{not json", "{not json"),
        ("[1]", "[1]"),
        ("", "it said nothing"),
    ],
)
def test_the_last_line_of_a_log_is_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(text)
    assert last_words(log) == f"{words} (see {log})"
