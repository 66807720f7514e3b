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
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.corpus.corpus import Corpus, open_corpus
from moe_search.proxies.corpus.documents import Selection, prefix, select, total_bytes
from moe_search.proxies.corpus.inputs import Available, DomainInput, Log, domain_inputs, fetch
from moe_search.proxies.corpus.manifest import FORMAT, Manifest, notice
from moe_search.proxies.corpus.shards import write_domain
from moe_search.proxies.corpus.tokenizer import (
    BytePairTokenizer,
    ByteTokenizer,
    Tokenizer,
    tokenizer_hash,
    tokenizer_threads,
)
from moe_search.proxies.corpus.wheels import SCRATCH
from moe_search.spaces.errors import ResourceError


def default_cache() -> Path:
    """Return ``$MOE_SEARCH_CACHE``, or ``~/.cache/moe-search``."""
    named = os.environ.get("MOE_SEARCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "moe-search"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def prepare_corpus(
    config: CorpusConfig,
    cache: Path | None = None,
    *,
    log: Log = _to_stderr,
    threads: int | None = None,
    retry_missing: bool = False,
) -> Corpus:
    """Return the corpus that ``config`` describes, preparing it unless the cache has it.

    A source of the default corpus that cannot be had costs its domains: the corpus is prepared without them, and stays
    so (a campaign must find the same text when it is resumed) until somebody asks to try again.

    Args:
        config: what to prepare.
        cache: folder for wheels and corpora; ``default_cache()`` if None. Several processes may use it at once.
        log: called with one line for every stage, and with one sentence for every domain that is missing.
        threads: threads of the tokenizer; all CPUs of this process if None. The result does not depend on it.
        retry_missing: whether to try again for what a corpus in the cache lacks.

    Raises:
        InvalidInputError: files of the user's that cannot be read, or a domain that is too small to split.
        ResourceError: no space, no permission, or too few domains to be had.
    """
    cache = cache or default_cache()
    inputs = domain_inputs(config)
    root = cache / "corpora" / _key(config, inputs)
    try:
        if not root.is_dir() or (retry_missing and open_corpus(root).manifest.missing):
            root.parent.mkdir(parents=True, exist_ok=True)
            with _exclusive(cache, log):
                before = {gone.domain for gone in open_corpus(root).manifest.missing} if root.is_dir() else None
                if before is None or (retry_missing and before):
                    available = fetch(inputs, cache / "wheels", log)
                    if before != {gone.domain for gone in available.missing}:
                        _build_and_rename(root, config, available, threads=threads or _cpus(), log=log)
    except OSError as error:
        raise ResourceError(f"the corpus cannot be written to {cache}: {error.strerror or error}") from error
    corpus = open_corpus(root)
    for gone in corpus.manifest.missing:
        log(f"warning: the corpus goes without the domain {gone.domain} ({gone.reason})")
    return corpus


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key(config: CorpusConfig, inputs: Iterable[DomainInput]) -> str:
    """Return the name of the folder: 16 hex digits of everything that decides about the tokens."""
    sources = {item.domain: item.fingerprint for item in inputs}
    parts = {"format": FORMAT, "config": config.model_dump(exclude={"domains"}), "sources": sources}
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


@contextmanager
def _exclusive(cache: Path, log: Log) -> Iterator[None]:
    """Let one process at a time work in the cache. It only saves work: without locks, the rename decides."""
    lock = FileLock(cache / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log("another process is preparing a corpus in this cache; waiting for it")
            lock.acquire()
        for left_over in cache.glob(f"*/{SCRATCH}*"):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
    except NotImplementedError:
        log("the file system of the cache has no locks; going on without")
    try:
        yield
    finally:
        lock.release()


def _build_and_rename(root: Path, config: CorpusConfig, available: Available, *, threads: int, log: Log) -> None:
    scratch = root.parent / f"{SCRATCH}{uuid4().hex}"
    scratch.mkdir()
    try:
        _build(scratch, config, available, threads=threads, log=log)
        if root.is_dir():  # with fewer domains
            root.rename(scratch / "replaced")
        try:
            scratch.rename(root)
        except OSError:
            if not root.is_dir():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(root / "replaced", ignore_errors=True)


def _build(folder: Path, config: CorpusConfig, available: Available, *, threads: int, log: Log) -> None:
    """Write the corpus into an empty folder."""
    selections: dict[str, Selection] = {}
    for item in available.inputs:
        selections[item.domain] = selection = select(
            item.domain,
            item.read(available.wheels),
            min_bytes=item.min_bytes,
            max_bytes=item.max_bytes,
            held_out_share=config.held_out_share,
            max_train_bytes=config.max_bytes_per_domain,
        )
        log(f"{item.domain}: {total_bytes(selection.all) / 1e6:.2f} MB in {len(selection.all):,} documents")
    with tokenizer_threads(threads):
        tokenizer = _tokenizer(config, selections, log)
        log(f"tokenising {sum(total_bytes(selection.all) for selection in selections.values()) / 1e6:.1f} MB")
        rows = tuple(
            write_domain(folder, item, selections[item.domain], tokenizer=tokenizer, vocab_size=config.vocab_size)
            for item in available.inputs
        )
    text = tokenizer.to_json()
    content = [tokenizer_hash(text), config.vocab_size, [(row.domain, row.sha256) for row in rows]]
    manifest = Manifest(
        format=FORMAT,
        config=config,
        domains=rows,
        missing=tuple(available.missing),
        vocab_size=config.vocab_size,
        end_of_document=tokenizer.end_of_document,
        tokenizer_hash=tokenizer_hash(text),
        data_hash=hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest(),
    )
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "NOTICE").write_text(notice(manifest), encoding="utf-8")
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def _tokenizer(config: CorpusConfig, selections: dict[str, Selection], log: Log) -> Tokenizer:
    if config.tokenizer == "bytes":
        return ByteTokenizer()
    samples = [prefix(selection.train, config.tokenizer_sample_bytes) for selection in selections.values()]
    log(f"training the tokenizer on {sum(map(total_bytes, samples)) / 1e6:.1f} MB")
    return BytePairTokenizer.train((document.text for sample in samples for document in sample), config.vocab_size)
