"""A password from the environment is used, and is nowhere in what a campaign says and writes."""

import signal
from typing import Any

import pytest
import sqlalchemy

SECRET, MARK = "Hunter2/@:?#&=", "Hunter2"
REFERENCE = "${MOE_SEARCH_SECRET}"


@pytest.mark.slow
def test_nothing_that_a_campaign_writes_has_its_passwords(new_campaign: Any, postgresql: str) -> None:
    campaign = new_campaign()
    campaign.environment = campaign.environment | {"MOE_SEARCH_SECRET": SECRET}
    storage = postgresql.replace("postgres@", f"postgres:{REFERENCE}@")
    assert storage != postgresql
    mlflow = f"http://me:{REFERENCE}@127.0.0.1:9/x?api_key={REFERENCE}"  # nobody listens there, and errors name it
    settings = ["name=secrets", f"storage={storage}", f"tracking.uri={mlflow}", "workers.count=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    run = campaign.start("run", "campaign.yaml", *options)
    begun = ""
    while "MLflow at http://" not in begun:  # an error of a server, in its own words
        assert run.poll() is None, begun
        begun += run.stderr.readline()
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 130, begun + err
    shown = campaign("status", "results")
    assert shown.returncode == 0, shown.stderr
    said = [begun, out, err, shown.stdout, shown.stderr]
    refused = campaign("run", "campaign.yaml", "--set", f"storage={postgresql.replace('postgres@', f'me:{MARK}@')}")
    assert refused.returncode == 2
    assert "has a secret in it" in refused.stderr
    said.append(refused.stderr)
    written = {path: path.read_bytes() for path in campaign.folder.rglob("*") if path.is_file()}
    assert len(written) > 2
    assert REFERENCE in (campaign.folder / "results" / "campaign.yaml").read_text()
    assert not [text for text in said if MARK in text]
    assert not [path for path, content in written.items() if MARK.encode() in content]
    engine = sqlalchemy.create_engine(postgresql)
    with engine.connect() as connection:
        attributes = connection.execute(sqlalchemy.text("SELECT value_json FROM study_user_attributes")).scalars().all()
    engine.dispose()
    assert attributes
    assert not [value for value in attributes if MARK in value]
