-- The user's schema first, then the path that sessions of this role have without us: triggers of the user's on agent_messages and
-- agent_registry find what they name as they do for everybody. Called by src/postgres/connection.rs for a running broker alone:
-- for a migration a schema that is missing must not become another one.
select set_config('search_path',
                  quote_ident(current_schema()) || coalesce(', ' || nullif(reset_val, ''), '') || ', pg_temp', false)
from pg_settings where name = 'search_path' and current_schema() is not null
