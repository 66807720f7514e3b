import gzip
import json
from pathlib import Path

import pytest

from moe_search.proxies.corpus.local_files import expand, read
from moe_search.spaces.errors import InvalidInputError


def documents(path: Path) -> list[tuple[str, str]]:
    return list(read("mine", expand("mine", [str(path)])))


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo", encoding="utf-8")
    lines = "\n".join(json.dumps({"text": text, "other": 1}) for text in ("drei", "четыре")) + "\n\n"
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "inner").mkdir()
    with gzip.open(tmp_path / "inner" / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "五"}))
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    assert documents(tmp_path) == [
        ("a.txt", "one\ntwo"),
        ("b.jsonl:1", "drei"),
        ("b.jsonl:2", "четыре"),
        ("c.jsonl.gz:1", "五"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nfine\n\xff\xfe", r"a\.txt: line 3 is not UTF-8 \(byte 0xff\)"),
        ("a.txt", b"\xef\xbb\xbffine\nca\xe9", r"a\.txt: line 2 is not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}', r"a\.jsonl: line 2 is not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a\.jsonl: line 2 is no JSON"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl: line 1 is no object with a string"),
        ("a.jsonl", b'["text"]', r"a\.jsonl: line 1 is no object with a string"),
        ("a.jsonl", b'\n{"text": "\\ud83d"}', r"a\.jsonl: line 2 has half a surrogate pair"),
        ("a.jsonl.gz", b"no gzip at all", r"a\.jsonl\.gz: it cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9], r"a\.jsonl\.gz: it cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 60, r"a\.jsonl\.gz: it cannot be read"),
        ("a.parquet", b"x", r"a\.parquet: the suffix is none of \.txt"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"corpus\.source\.mine: .*" + message):
        documents(tmp_path / name)


def test_absent_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no such file"):
        documents(tmp_path / "absent.txt")
    with pytest.raises(InvalidInputError, match="the folder holds no"):
        documents(tmp_path)
