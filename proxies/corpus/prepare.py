"""Prepare a corpus once: fetch, read, clean, split, train the tokenizer, tokenise, write; all of it or nothing.

The folder of a corpus is named by the hash of its configuration, its sources and the format, so that the second call
only opens it. It is built under a temporary name in the same folder and renamed when complete.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.corpus.corpus import Corpus, open_corpus
from moe_search.proxies.corpus.documents import Selection, prefix, select, total_bytes
from moe_search.proxies.corpus.inputs import DomainInput, Log, domain_inputs, fetch
from moe_search.proxies.corpus.manifest import FORMAT, Manifest, MissingDomain, notice
from moe_search.proxies.corpus.shards import write_domain
from moe_search.proxies.corpus.tokenizer import (
    BytePairTokenizer,
    ByteTokenizer,
    Tokenizer,
    tokenizer_hash,
    tokenizer_threads,
)
from moe_search.spaces.errors import ResourceError


def default_cache() -> Path:
    """Return ``$MOE_SEARCH_CACHE``, or ``~/.cache/moe-search``."""
    named = os.environ.get("MOE_SEARCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "moe-search"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def prepare_corpus(
    config: CorpusConfig, cache: Path | None = None, *, log: Log = _to_stderr, threads: int | None = None
) -> Corpus:
    """Return the corpus that ``config`` describes, preparing it unless the cache has it.

    Args:
        config: what to prepare.
        cache: folder for wheels and corpora; ``default_cache()`` if None. Several processes may use it at once.
        log: called with one line for every stage, and with one sentence for every domain that cannot be had.
        threads: threads of the tokenizer; all CPUs of this process if None. The result does not depend on it.

    Raises:
        InvalidInputError: files of the user's that cannot be read, or a domain that is too small to split.
        ResourceError: no space, no permission, or too few domains to be had.
    """
    cache = cache or default_cache()
    wheels, corpora = cache / "wheels", cache / "corpora"
    inputs = domain_inputs(config)
    missing: list[MissingDomain] = []
    try:
        root = corpora / _key(config, inputs)
        if not root.is_dir():
            inputs, missing = fetch(inputs, wheels, log)
            root = corpora / _key(config, inputs)
        if not root.is_dir():
            corpora.mkdir(parents=True, exist_ok=True)
            with _exclusive(corpora / f".{root.name}.lock", log):
                if not root.is_dir():
                    _build_and_rename(root, _Job(config, inputs, missing, wheels, log, threads or _cpus()))
    except OSError as error:
        raise ResourceError(f"the corpus cannot be written to {cache}: {error.strerror or error}") from error
    return open_corpus(root)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key(config: CorpusConfig, inputs: Iterable[DomainInput]) -> str:
    """Return the name of the folder: 16 hex digits of everything that decides about the tokens."""
    sources = {item.domain: item.fingerprint for item in inputs}
    parts = {"format": FORMAT, "config": config.model_dump(exclude={"domains"}), "sources": sources}
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


@contextmanager
def _exclusive(path: Path, log: Log) -> Iterator[None]:
    """Let one process at a time build this corpus. It only saves work: without locks, the rename decides."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log("another process is preparing this corpus; waiting for it")
            lock.acquire()
    except NotImplementedError:
        log("the file system of the cache has no locks; going on without")
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Job:
    """What it takes to build a corpus."""

    config: CorpusConfig
    inputs: list[DomainInput]
    missing: list[MissingDomain]
    wheels: Path
    log: Log
    threads: int


def _build_and_rename(root: Path, job: _Job) -> None:
    scratch = root.parent / f".{root.name}-{uuid4().hex}"
    scratch.mkdir()
    try:
        _build(scratch, job)
        try:
            scratch.rename(root)
        except OSError:
            if not root.is_dir():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(folder: Path, job: _Job) -> None:
    """Write the corpus into an empty folder."""
    config = job.config
    selections: dict[str, Selection] = {}
    for item in job.inputs:
        selections[item.domain] = selection = select(
            item.domain,
            item.read(job.wheels),
            min_bytes=item.min_bytes,
            max_bytes=item.max_bytes,
            held_out_share=config.held_out_share,
            max_train_bytes=config.max_bytes_per_domain,
        )
        job.log(f"{item.domain}: {total_bytes(selection.all) / 1e6:.2f} MB in {len(selection.all):,} documents")
    with tokenizer_threads(job.threads):
        tokenizer = _tokenizer(config, selections, job)
        job.log(f"tokenising {sum(total_bytes(selection.all) for selection in selections.values()) / 1e6:.1f} MB")
        rows = tuple(
            write_domain(folder, item, selections[item.domain], tokenizer=tokenizer, vocab_size=config.vocab_size)
            for item in job.inputs
        )
    text = tokenizer.to_json()
    content = [tokenizer_hash(text), config.vocab_size, [(row.domain, row.sha256) for row in rows]]
    manifest = Manifest(
        format=FORMAT,
        config=config,
        domains=rows,
        missing=tuple(job.missing),
        vocab_size=config.vocab_size,
        end_of_document=tokenizer.end_of_document,
        tokenizer_hash=tokenizer_hash(text),
        data_hash=hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest(),
    )
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "NOTICE").write_text(notice(manifest), encoding="utf-8")
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def _tokenizer(config: CorpusConfig, selections: dict[str, Selection], job: _Job) -> Tokenizer:
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    samples = [prefix(selection.train, config.tokenizer_sample_bytes) for selection in selections.values()]
    job.log(f"training the tokenizer on {sum(map(total_bytes, samples)) / 1e6:.1f} MB")
    return BytePairTokenizer.train((document.text for sample in samples for document in sample), config.vocab_size)
