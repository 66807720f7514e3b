import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from moe_search.proxies.corpus import Corpus, CorpusConfig, default_cache, prepare_corpus
from moe_search.spaces.errors import InvalidInputError, MoESearchError, ResourceError

Texts = dict[str, tuple[str, ...]]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def unfinished(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*/*") if path.name.startswith(".")]


def silent(line: str) -> None:
    """Nothing to say."""


def in_a_process(script: str, cache: Path, texts: Texts) -> subprocess.Popen[str]:
    """Start a Python process that has ``config`` and ``cache``."""
    head = (
        "import os, resource, signal\nfrom pathlib import Path\nfrom moe_search.proxies.corpus import *\n"
        f"from moe_search.proxies.corpus import prepare\ncache = Path({str(cache)!r})\n"
        f"config = CorpusConfig(source={texts!r}, tokenizer='bytes')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_second_call_only_opens(texts: Texts, tmp_path: Path) -> None:
    config = CorpusConfig(source=texts, tokenizer="bytes")
    lines: list[str] = []
    first = prepare_corpus(config, tmp_path, log=lines.append)
    assert lines
    before = {path: path.stat().st_mtime_ns for path in first.root.rglob("*")}
    lines.clear()
    second = prepare_corpus(config, tmp_path, log=lines.append)
    assert (second.root, second.manifest, lines) == (first.root, first.manifest, [])
    assert {path: path.stat().st_mtime_ns for path in first.root.rglob("*")} == before


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_two_preparations_are_the_same_to_the_byte(texts: Texts, tmp_path: Path, tokenizer: str) -> None:
    config = CorpusConfig(source=texts, tokenizer=tokenizer, vocab_size=257 if tokenizer == "bytes" else 300)
    one, other = (
        prepare_corpus(config, tmp_path / name, log=silent, threads=threads) for name, threads in (("a", 1), ("b", 2))
    )
    assert contents(one.root) == contents(other.root)


def test_every_choice_makes_another_corpus(texts: Texts, cache: Path) -> None:
    base: dict[str, object] = {"source": texts, "tokenizer": "bytes"}
    variants = [
        {},
        {"max_bytes_per_domain": 10_000},
        {"held_out_share": 0.1},
        {"domains": ("alpha", "beta")},
        {"tokenizer": "bpe", "vocab_size": 300},
    ]
    corpora = [
        prepare_corpus(CorpusConfig.model_validate({**base, **change}), cache, log=silent) for change in variants
    ]
    assert len({corpus.root for corpus in corpora}) == len({corpus.data_hash for corpus in corpora}) == len(variants)
    assert corpora[3].domains == ("alpha", "beta")


def test_a_cap_keeps_held_out_text_and_tokenizer(texts: Texts, cache: Path) -> None:
    whole = CorpusConfig(source=texts, vocab_size=300, tokenizer_sample_bytes=10_000)
    capped = whole.replace(max_bytes_per_domain=10_000)
    one, other = (prepare_corpus(config, cache, log=silent) for config in (whole, capped))
    assert one.tokenizer_hash == other.tokenizer_hash
    assert len(one.train_tokens("alpha")) > len(other.train_tokens("alpha"))
    assert one.held_out("alpha").tokens.tobytes() == other.held_out("alpha").tokens.tobytes()


def test_the_same_text_elsewhere_has_the_same_data_hash(texts: Texts, tmp_path: Path) -> None:
    moved: Texts = {}
    for domain, (folder,) in texts.items():
        moved[domain] = (str(shutil.copytree(folder, tmp_path / "moved" / domain)),)
    one, other = (
        prepare_corpus(CorpusConfig(source=source, tokenizer="bytes"), tmp_path / "cache", log=silent)
        for source in (texts, moved)
    )
    assert one.root != other.root
    assert one.data_hash == other.data_hash


def test_changed_files_are_noticed(texts: Texts, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(9):
        (mine / f"{number}.txt").write_text(f"text number {number}")
    config = CorpusConfig(source={"mine": (str(mine),)}, tokenizer="bytes")
    before = prepare_corpus(config, tmp_path / "cache", log=silent)
    (mine / "3.txt").write_text("text number three")
    assert prepare_corpus(config, tmp_path / "cache", log=silent).data_hash != before.data_hash


def test_the_notice_names_source_and_licence_of_every_domain(corpus: Corpus) -> None:
    notice = (corpus.root / "NOTICE").read_text(encoding="utf-8")
    for row in corpus.manifest.domains:
        for fact in (row.domain, row.source, row.licence, row.attribution):
            assert fact in notice


def test_processes_at_once_make_one_corpus(texts: Texts, tmp_path: Path) -> None:
    script = "print(prepare_corpus(config, cache, log=lambda line: None).data_hash)"
    processes = [in_a_process(script, tmp_path, texts) for _ in range(3)]
    results = [process.communicate(timeout=100) for process in processes]
    hashes = {out.strip() for out, _ in results}
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len(hashes) == len(list((tmp_path / "corpora").iterdir())) == 1


def test_without_locks_the_rename_decides(texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the same corpus while this one builds it."""
    from moe_search.proxies.corpus import prepare  # noqa: PLC0415

    config = CorpusConfig(source=texts, tokenizer="bytes")
    build, rivals = prepare._build, []

    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    def build_slowly(folder: Path, *arguments: object, **keywords: object) -> None:
        build(folder, *arguments, **keywords)
        if not rivals:
            rivals.append(None)
            rivals[0] = prepare_corpus(config, tmp_path, log=silent)

    monkeypatch.setattr(prepare.FileLock, "acquire", no_locks)
    monkeypatch.setattr(prepare, "_build", build_slowly)
    lines: list[str] = []
    corpus = prepare_corpus(config, tmp_path, log=lines.append)
    assert rivals[0].root == corpus.root
    assert "the file system of the cache has no locks; going on without" in lines
    assert list((tmp_path / "corpora").iterdir()) == [corpus.root]


def test_a_killed_preparation_leaves_nothing_that_counts(texts: Texts, tmp_path: Path) -> None:
    script = (
        "write = prepare.write_domain\n"
        "def killed(folder, item, *arguments, **keywords):\n"
        "    if item.domain == 'beta': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return write(folder, item, *arguments, **keywords)\n"
        "prepare.write_domain = killed\n"
        "prepare_corpus(config, cache, log=lambda line: None)\n"
    )
    process = in_a_process(script, tmp_path, texts)
    process.communicate(timeout=100)
    assert process.returncode == -9
    assert len(unfinished(tmp_path)) == 1
    corpus = prepare_corpus(CorpusConfig(source=texts, tokenizer="bytes"), tmp_path, log=silent)
    assert list((tmp_path / "corpora").iterdir()) == [corpus.root]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(texts: Texts, tmp_path: Path) -> None:
    script = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "prepare_corpus(config, cache, log=lambda line: None)\n"
    )
    _, errors = in_a_process(script, tmp_path, texts).communicate(timeout=100)
    sentence = f"moe_search.spaces.errors.ResourceError: the corpus cannot be written to {tmp_path}: File too large"
    assert errors.strip().splitlines()[-1] == sentence
    assert not list((tmp_path / "corpora").iterdir())


def test_a_cache_that_cannot_be_written_is_one_sentence(texts: Texts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match=r"cannot be written to .*file: Not a directory"):
        prepare_corpus(CorpusConfig(source=texts, tokenizer="bytes"), tmp_path / "file", log=silent)


def test_an_interrupted_preparation_cleans_up(texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moe_search.proxies.corpus.prepare.write_domain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(CorpusConfig(source=texts, tokenizer="bytes"), tmp_path, log=silent)
    assert not list((tmp_path / "corpora").iterdir())


def test_an_unreadable_file_leaves_nothing(texts: Texts, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    config = CorpusConfig(source={**texts, "bad": (str(tmp_path / "bad.txt"),)}, tokenizer="bytes")
    with pytest.raises(InvalidInputError, match=r"corpus\.source\.bad: .*bad\.txt: line 1 is not UTF-8"):
        prepare_corpus(config, tmp_path / "cache", log=silent)
    assert not list((tmp_path / "cache" / "corpora").iterdir())


def test_unknown_domains_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"corpus\.domains: there is no domain 'news'; allowed: api_docs, code"):
        prepare_corpus(CorpusConfig(domains=("code", "news")), tmp_path, log=silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": {"a/b": ("x.txt",)}}, "'a/b' is no name for a domain"),
        ({"source": {"a": ()}}, r"corpus\.source\.a: no files are given"),
        ({"source": {}}, "no domain is given"),
        ({"tokenizer": "bytes", "vocab_size": 4096}, "the tokenizer is bytes but vocab_size is 4096"),
        ({"vocab_size": 70_000}, "less than or equal to 65536"),
        ({"held_out_share": 0.5}, "less than or equal to 0.25"),
        ({"tokeniser": "bpe"}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises((MoESearchError, ValidationError), match=message):
        CorpusConfig.model_validate(fields)


def test_bytes_need_no_vocabulary_size() -> None:
    config = CorpusConfig(tokenizer="bytes")
    assert config.vocab_size == 257
    assert CorpusConfig.model_validate_json(config.model_dump_json()) == config


def test_the_cache_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_SEARCH_CACHE", "/somewhere")
    assert default_cache() == Path("/somewhere")
    monkeypatch.delenv("MOE_SEARCH_CACHE")
    assert default_cache() == Path.home() / ".cache" / "moe-search"
