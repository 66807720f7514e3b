"""The tables of ours beside Optuna's in a PostgreSQL database, and how a campaign of an earlier version enters them.

``moe_search_campaigns``  a number that grows with every trial and every result: idle workers look at nothing else
``moe_search_leases``     one row a trial, written with it: who works on it, until when, how often that ended badly
``moe_search_workers``    one row a worker: when it was last seen, while it holds no lease
"""

import json
from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, inspect, text

from moe_search.spaces.run import Run

# Optuna counts steps in 32 bits; ours are tokens, and 2^31 of them are no long training run.
SCHEMA = """
CREATE TABLE IF NOT EXISTS moe_search_campaigns (
    study_id integer PRIMARY KEY REFERENCES studies ON DELETE CASCADE,
    version bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS moe_search_leases (
    study_id integer NOT NULL REFERENCES studies ON DELETE CASCADE,
    number integer NOT NULL,
    trial_id integer NOT NULL UNIQUE REFERENCES trials ON DELETE CASCADE,
    standing text NOT NULL DEFAULT 'waiting',
    free_at timestamptz NOT NULL DEFAULT '-infinity',
    token integer NOT NULL DEFAULT 0,
    result_token integer,
    losses integer NOT NULL DEFAULT 0,
    preemptions integer NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    host text NOT NULL DEFAULT '',
    pid integer NOT NULL DEFAULT 0,
    process_started text NOT NULL DEFAULT '',
    PRIMARY KEY (study_id, number),
    CHECK (standing IN ('waiting', 'held', 'preempted', 'error', 'done'))
);
CREATE INDEX IF NOT EXISTS moe_search_leases_free ON moe_search_leases (study_id, free_at);
CREATE INDEX IF NOT EXISTS moe_search_leases_host ON moe_search_leases (study_id, host) WHERE standing = 'held';
CREATE TABLE IF NOT EXISTS moe_search_workers (
    study_id integer NOT NULL REFERENCES studies ON DELETE CASCADE,
    owner text NOT NULL,
    state text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    process_started text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (study_id, owner)
);
CREATE INDEX IF NOT EXISTS moe_search_trials_number ON trials (study_id, number);
ALTER TABLE trial_intermediate_values ALTER COLUMN step TYPE bigint;
"""
LAST = "moe_search_workers"
"""If this is there, all of it is: it is created in one transaction."""
RUNS = TypeAdapter(tuple[Run, ...])


def has_schema(engine: Engine) -> bool:
    """Say whether everything is there, Optuna's tables included."""
    return inspect(engine).has_table(LAST)


def create_schema(engine: Engine) -> None:
    """Create what is missing, beside Optuna's tables."""
    with engine.begin() as connection:
        for statement in SCHEMA.split(";"):
            if statement.strip():
                connection.execute(text(statement))


def adopt(connection: Connection, study_id: int, lease_seconds: float) -> Sequence[tuple[int, tuple[Run, ...]]]:
    """Enter a study into our tables, if it is not there yet, with the trials of an earlier version.

    Such a trial that is running may have a worker that knows nothing of these tables, so it is left a lease's time.

    Returns:
        Number and result of those that had one when the earlier version was killed before telling it.
    """
    values = {"study": study_id, "seconds": lease_seconds}
    new = connection.execute(
        text("INSERT INTO moe_search_campaigns (study_id) VALUES (:study) ON CONFLICT DO NOTHING RETURNING 1"), values
    ).all()
    if not new:
        return ()
    connection.execute(
        text(
            """
            INSERT INTO moe_search_leases (study_id, number, trial_id, standing, free_at)
            SELECT study_id, number, trial_id,
                CASE state WHEN 'WAITING' THEN 'waiting' WHEN 'RUNNING' THEN 'held' ELSE 'done' END,
                CASE state WHEN 'WAITING' THEN '-infinity' WHEN 'RUNNING' THEN now() + make_interval(secs => :seconds)
                    ELSE 'infinity' END
            FROM trials WHERE study_id = :study
            """
        ),
        values,
    )
    untold = connection.execute(
        text(
            "SELECT number, value_json FROM trials JOIN trial_user_attributes USING (trial_id)"
            " WHERE study_id = :study AND state = 'RUNNING' AND key = 'runs'"
        ),
        values,
    )
    return [(number, RUNS.validate_python(json.loads(runs))) for number, runs in untold]
