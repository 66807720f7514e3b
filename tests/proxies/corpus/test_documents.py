import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_search.proxies.corpus.documents import SPLITS, clean, prefix, select, total_bytes
from moe_search.spaces.errors import InvalidInputError


def numbered(count: int, seed: int = 0, longest: int = 400) -> list[tuple[str, str]]:
    generator = random.Random(seed)
    return [(f"document {i}", f"{i} " + "word " * generator.randint(1, longest)) for i in range(count)]


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("cafe\u0301", "caf\u00e9\n"),
        ("a\r\nb\rc", "a\nb\nc\n"),
        ("a  \t\n b", "a\n b\n"),
        ("a\n \n\t\n\n\nb", "a\n\nb\n"),
        (" \n ", "\n"),
    ],
)
def test_clean(raw: str, wanted: str) -> None:
    assert clean(raw) == wanted


@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_long_runs_of_blanks_are_cleaned_in_linear_time() -> None:
    assert clean("a" + " " * 300_000 + "b").endswith(" b\n")


@settings(max_examples=50)
@given(st.integers(40, 200), st.integers(0, 99), st.sampled_from([0.02, 0.04, 0.1]))
def test_held_out_splits_get_their_bytes_and_no_more_than_one_document_over(
    count: int, seed: int, share: float
) -> None:
    selection = select("d", numbered(count, seed), held_out_share=share)
    total = total_bytes(selection.all)
    longest = max(document.n_bytes for document in selection.all)
    for split in ("val", "test"):
        assert share * total <= total_bytes(selection.of(split)) < share * total + longest
    assert len({document.name for document in selection.all}) == len(selection.all) == count


def test_the_selection_does_not_depend_on_the_order_of_the_files() -> None:
    texts = numbered(60)
    assert select("d", texts, held_out_share=0.04) == select("d", texts[::-1], held_out_share=0.04)


def test_another_domain_has_another_order() -> None:
    one, other = (select(domain, numbered(60), held_out_share=0.04) for domain in ("a", "b"))
    assert [document.name for document in one.train] != [document.name for document in other.train]


def test_a_cap_on_the_train_text_leaves_held_out_text_alone_and_takes_a_prefix() -> None:
    whole = select("d", numbered(60), held_out_share=0.04)
    capped = select("d", numbered(60), held_out_share=0.04, max_train_bytes=20_000)
    assert (capped.val, capped.test) == (whole.val, whole.test)
    assert capped.train == whole.train[: len(capped.train)]
    assert 20_000 - 2_010 < total_bytes(capped.train) <= 20_000


def test_a_cap_on_the_domain_comes_before_the_split() -> None:
    selection = select("d", numbered(60), held_out_share=0.25, max_bytes=20_000)
    assert total_bytes(selection.all) <= 20_000
    assert total_bytes(selection.val) >= 0.25 * total_bytes(selection.all)


def test_duplicates_and_stubs_are_counted_and_dropped() -> None:
    texts = [*numbered(20), ("copy", numbered(20)[3][1].upper().replace(" ", "\n ")), ("stub", "x"), ("empty", " ")]
    selection = select("d", texts, held_out_share=0.04, min_bytes=5)
    assert (selection.duplicates, selection.too_short, len(selection.all)) == (1, 2, 20)
    assert "copy" not in {document.name for document in selection.all}


def test_too_few_documents_are_refused_with_the_domain() -> None:
    with pytest.raises(InvalidInputError, match=r"corpus\.source\.d: 2 distinct documents"):
        select("d", numbered(2), held_out_share=0.04)


def test_prefix_takes_at_least_one_document() -> None:
    documents = select("d", numbered(10), held_out_share=0.04).train
    assert prefix(documents, 1) == documents[:1]
    assert prefix(documents, None) == documents


def test_splits_are_named() -> None:
    selection = select("d", numbered(30), held_out_share=0.04)
    assert [document for split in SPLITS for document in selection.of(split)] == selection.all
