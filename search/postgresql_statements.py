"""The statements of :mod:`~moe_search.search.postgresql_table`, each of which is one step of the protocol.

``:study`` is the study's number, ``:number`` the trial's. A *lease* is held by ``:token`` or by nobody. Times in
Optuna's tables are in UTC without saying so, as Optuna writes them.
"""

from sqlalchemy import text

# A lease that a stopped server cut off is left its full length after the start: its holder could not renew it.
CLAIM = text(
    """
    WITH free AS (
        SELECT trial_id FROM moe_search_leases
        WHERE study_id = :study AND free_at <= now()
            AND (free_at = '-infinity' OR now() > pg_postmaster_start_time() + make_interval(secs => :seconds))
        ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
    ), begun AS (
        UPDATE trials SET state = 'RUNNING', datetime_start = now() AT TIME ZONE 'UTC'
        FROM free WHERE trials.trial_id = free.trial_id AND state = 'WAITING'
    ), taken AS (
        UPDATE moe_search_leases AS lease SET
            token = token + 1, losses = losses + (standing = 'held')::int, standing = 'held',
            free_at = now() + make_interval(secs => :seconds),
            owner = :owner, host = :host, pid = :pid, process_started = :process_started
        FROM free WHERE lease.trial_id = free.trial_id
        RETURNING lease.study_id, lease.number, lease.token, lease.losses, lease.trial_id
    )
    SELECT version, taken.number, taken.token, taken.losses, attribute.value_json
    FROM moe_search_campaigns AS campaign
    LEFT JOIN taken ON taken.study_id = campaign.study_id
    LEFT JOIN trial_user_attributes AS attribute ON attribute.trial_id = taken.trial_id AND attribute.key = 'trial'
    WHERE campaign.study_id = :study
    """
)
NEIGHBOURS = text(
    "SELECT number, token, pid, process_started FROM moe_search_leases"
    " WHERE study_id = :study AND standing = 'held' AND host = :host"
)
LOST = text(
    "UPDATE moe_search_leases SET free_at = '-infinity'"
    " WHERE study_id = :study AND number = :number AND token = :token AND standing = 'held' RETURNING 1"
)
RENEW = text(
    "UPDATE moe_search_leases SET free_at = now() + make_interval(secs => :seconds)"
    " WHERE study_id = :study AND number = :number AND token = :token AND standing = 'held' RETURNING 1"
)
REPORT = text(
    """
    WITH held AS (
        UPDATE moe_search_leases SET free_at = now() + make_interval(secs => :seconds)
        WHERE study_id = :study AND number = :number AND token = :token AND standing = 'held' RETURNING trial_id
    )
    INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, :tokens, :loss, CAST(:type AS trialintermediatevaluetype) FROM held
    ON CONFLICT (trial_id, step) DO UPDATE SET
        intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type
    RETURNING 1
    """
)
RELEASE = text(
    "UPDATE moe_search_leases SET standing = 'preempted', preemptions = preemptions + 1, free_at = '-infinity'"
    " WHERE study_id = :study AND number = :number AND token = :token AND standing = 'held' RETURNING 1"
)
COMMIT = text(
    """
    WITH done AS (
        UPDATE moe_search_leases SET standing = 'done', free_at = 'infinity', result_token = :token
        WHERE study_id = :study AND number = :number AND standing <> 'done' RETURNING study_id, trial_id
    ), told AS (
        UPDATE trials SET state = CAST(:state AS trialstate), datetime_complete = now() AT TIME ZONE 'UTC'
        FROM done WHERE trials.trial_id = done.trial_id
    ), valued AS (
        INSERT INTO trial_values (trial_id, objective, value, value_type)
        SELECT trial_id, 0, CAST(:value AS double precision), 'FINITE' FROM done
        WHERE CAST(:value AS double precision) IS NOT NULL
    ), written AS (
        INSERT INTO trial_user_attributes (trial_id, key, value_json)
        SELECT trial_id, item.key, item.value
        FROM done, (VALUES ('runs', CAST(:runs AS text)), ('status', CAST(:status AS text))) AS item (key, value)
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
    )
    UPDATE moe_search_campaigns AS campaign SET version = version + 1
    FROM done WHERE campaign.study_id = done.study_id RETURNING version
    """
)
BROUGHT = text("SELECT result_token FROM moe_search_leases WHERE study_id = :study AND number = :number")
NEXT = text("SELECT coalesce(max(number) + 1, 0) FROM trials WHERE study_id = :study")
STUDY_LOCK = text("SELECT 1 FROM studies WHERE study_id = :study FOR UPDATE")  # as Optuna does to number a trial
APPEND = text(
    """
    WITH added AS (
        INSERT INTO trials (study_id, number, state) VALUES (:study, :number, 'WAITING') RETURNING study_id, trial_id
    ), params AS (
        INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial_id, item.* FROM added, unnest(
            CAST(:names AS text[]), CAST(:values AS double precision[]), CAST(:distributions AS text[])) AS item
    ), attributes AS (
        INSERT INTO trial_user_attributes (trial_id, key, value_json)
        SELECT trial_id, item.* FROM added, unnest(CAST(:keys AS text[]), CAST(:contents AS text[])) AS item
    ), system AS (
        INSERT INTO trial_system_attributes (trial_id, key, value_json)
        SELECT trial_id, item.* FROM added, unnest(CAST(:system_keys AS text[]), CAST(:system AS text[])) AS item
    ), lease AS (
        INSERT INTO moe_search_leases (study_id, number, trial_id) SELECT study_id, :number, trial_id FROM added
    )
    UPDATE moe_search_campaigns AS campaign SET version = version + 1
    FROM added WHERE campaign.study_id = added.study_id RETURNING version
    """
)
LEASE_FOR_UPDATE = text(
    "SELECT trial_id, standing, token FROM moe_search_leases WHERE study_id = :study AND number = :number FOR UPDATE"
)
ERRORS = text("SELECT value_json FROM trial_user_attributes WHERE trial_id = :trial AND key = 'errors'")
SET_ERRORS = text(
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, 'errors', :errors)"
    " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
FREE_AGAIN = text("UPDATE moe_search_leases SET standing = 'error', free_at = '-infinity' WHERE trial_id = :trial")
GIVE_UP = text(
    """
    WITH done AS (
        UPDATE moe_search_leases SET standing = 'done', free_at = 'infinity' WHERE trial_id = :trial RETURNING study_id
    ), told AS (
        UPDATE trials SET state = 'FAIL', datetime_complete = now() AT TIME ZONE 'UTC' FROM done WHERE trial_id = :trial
    )
    UPDATE moe_search_campaigns AS campaign SET version = version + 1
    FROM done WHERE campaign.study_id = done.study_id
    """
)
TRIALS = text(
    "SELECT number, CAST(state AS text), trial_id FROM trials"
    " WHERE study_id = :study AND number >= :first ORDER BY number"
)
ATTRIBUTES = text(
    """
    SELECT trial_id, key, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(CAST(:new AS integer[])) AND key = 'trial'
    UNION ALL
    SELECT trial_id, key, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(CAST(:ended AS integer[])) AND key IN ('runs', 'errors')
    """
)
PROGRESS = text(
    """
    SELECT lease.number, owner, token, losses, preemptions, host, pid, process_started, standing,
        CASE WHEN isfinite(free_at) THEN extract(epoch FROM free_at - now()) ELSE 0 END AS seconds_left,
        live.step, live.intermediate_value, CAST(live.intermediate_value_type AS text) AS type
    FROM moe_search_leases AS lease JOIN trials USING (trial_id)
    LEFT JOIN LATERAL (
        SELECT step, intermediate_value, intermediate_value_type FROM trial_intermediate_values
        WHERE trial_id = lease.trial_id ORDER BY step DESC LIMIT 1
    ) AS live ON true
    WHERE lease.study_id = :study AND standing <> 'done' AND state = 'RUNNING' ORDER BY lease.number
    """
)
TIMES = text(
    "SELECT number, extract(epoch FROM datetime_start), extract(epoch FROM datetime_complete) FROM trials"
    " WHERE study_id = :study AND number = ANY(CAST(:numbers AS integer[]))"
)
CURVES = text(
    "SELECT number, step, intermediate_value, CAST(intermediate_value_type AS text)"
    " FROM trials JOIN trial_intermediate_values USING (trial_id)"
    " WHERE study_id = :study AND number = ANY(CAST(:numbers AS integer[])) ORDER BY number, step"
)
INTERRUPTIONS = text(
    """
    SELECT coalesce(sum(preemptions), 0), coalesce(sum(losses), 0), coalesce(sum(
        (SELECT json_array_length(value_json::json) FROM trial_user_attributes AS attribute
         WHERE attribute.trial_id = lease.trial_id AND key = 'errors')), 0)
    FROM moe_search_leases AS lease WHERE study_id = :study
    """
)
NOTE = text(
    """
    WITH old AS (
        DELETE FROM moe_search_workers
        WHERE study_id = :study AND owner <> :owner AND seen_at < now() - interval '30 days'
    )
    INSERT INTO moe_search_workers (study_id, owner, state, host, pid, process_started, seen_at)
    VALUES (:study, :owner, :state, :host, :pid, :process_started, now())
    ON CONFLICT (study_id, owner) DO UPDATE SET state = excluded.state, host = excluded.host, pid = excluded.pid,
        process_started = excluded.process_started, seen_at = excluded.seen_at
    RETURNING 1
    """
)
NOTES = text(
    "SELECT owner, state, host, pid, process_started, extract(epoch FROM now() - seen_at) AS ago"
    " FROM moe_search_workers WHERE study_id = :study"
)
