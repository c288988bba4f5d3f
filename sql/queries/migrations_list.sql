-- Every migration that was applied, oldest first.
-- Called by src/store/migrate/state.rs. Reads a few rows.
select version, name, sha256, applied_at, by
from postbell.migrations
order by version
