-- Every migration that was applied, oldest first. Called by src/postgres/migrate/state.rs. Reads a few rows.
select version, name, sha256, to_char(applied_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as applied_at, by
from postbell.migrations
order by version
