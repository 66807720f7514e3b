"""A look at a storage changes nothing in it and hides its password."""

from pathlib import Path

import pytest
import sqlalchemy

from moe_search.search.probing import probe
from moe_search.spaces.errors import InvalidInputError, ResourceError


def test_a_file_tells_its_disk_and_its_clock(tmp_path: Path) -> None:
    for storage in (tmp_path / "not" / "yet" / "journal.log", f"sqlite:///{tmp_path}/trials.db"):
        found = probe(storage)
        assert 0 < found.latency_seconds < 10
        assert abs(found.clock_seconds) < 5
    assert not list(tmp_path.iterdir())


def test_a_database_tells_its_version_and_its_clock_and_gets_no_table(postgresql: str) -> None:
    with sqlalchemy.create_engine(postgresql).connect() as connection:
        before = sqlalchemy.inspect(connection).get_table_names()
    found = probe(postgresql)
    assert found.version.startswith("PostgreSQL ")
    assert 0 < found.latency_seconds < 5
    assert abs(found.clock_seconds) < 1
    with sqlalchemy.create_engine(postgresql).connect() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == before


def test_one_that_is_away_is_a_sentence_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ResourceError, match="does not answer") as raised:
        probe("postgresql+psycopg://me:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(InvalidInputError, match="not supported"):
        probe("mssql://me:hunter2@host/db")
