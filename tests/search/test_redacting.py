"""Secrets are hidden wherever a URL is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_search.search.redacting import has_secret, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:s:e/c#r?et@x@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me:two words@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db?sslpassword=abc&x=1", "postgresql://me@host/db?sslpassword=***&x=1"),
        ("http://token@host/", "http://***@host/"),
        ("http://token:x${A}@host/?key=${A}b", "http://***@host/?key=***"),
        ("https://me:pw@host/path?api_key=abc", "https://***@host/path?api_key=***"),
        ("s3://bucket/x?AWSAccessKeyId=AKIA&Signature=x", "s3://bucket/x?AWSAccessKeyId=***&Signature=x"),
        ("at postgresql://me:pw@h/db and at http://u:p@g/x", "at postgresql://me:***@h/db and at http://***@g/x"),
        ("conninfo: host=h password=abc user=me", "conninfo: host=h password=*** user=me"),
    ],
)
def test_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert has_secret(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "/data/campaign",
        "postgresql://me@host:5432/db",
        "postgresql://me:${PASSWORD}@host/db",
        "https://${USER}:${PASSWORD}@host",
        "https://${TOKEN}@host/?api_key=${KEY}, and password=${PASSWORD}.",
        "http://me:${PASSWORD}@host?api_key=${KEY}",
        "postgresql://host/x is away; write to me@example.org",
        "trial 3 of token 2: 3 < 4 & 5",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not has_secret(text)


@given(st.text("abcXYZ019:/?#@&=!$%^*()+~", min_size=4), st.sampled_from(["postgresql", "http", "mysql+x"]))
def test_no_password_of_any_characters_is_left(password: str, scheme: str) -> None:
    secret = f"Q{password}Q"
    for text in (f"{scheme}://me:{secret}@host/db", f"cannot reach {scheme}://me:{secret}@host/db now"):
        assert secret not in redacted(text)
        assert "host/db" in redacted(text)
