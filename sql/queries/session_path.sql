-- Sets the search_path of a broker's connection. The user's schema is first, which the statements mean. Then comes the path that
-- a session of this role has without us, for the user's own triggers, which name their tables and functions as they do in the
-- user's sessions. A schema that has tables of these names is left out: a statement must never find another mesh's. Where the
-- user's schema does not exist nothing else is searched. pg_temp is last: left out it would come first.
-- Called by src/store/connection.rs for each connection, as text and not prepared. Reads the catalogs.
-- $1 schema text
select set_config('search_path', concat_ws(', ', quote_ident($1::text), theirs.path, 'pg_temp'), false)
from (
  select string_agg(e.element, ', ' order by e.n) as path
  from (select reset_val from pg_settings where name = 'search_path') s
  cross join lateral (
    select m[1] as element, n from regexp_matches(s.reset_val, '"(?:[^"]|"")*"|[^",\s]+', 'g') with ordinality r (m, n)
  ) e
  cross join lateral (
    select case when e.element = '"$user"' then current_user::text
                when e.element like '"%' then replace(substr(e.element, 2, length(e.element) - 2), '""', '"')
                else lower(e.element) end as name
  ) schema
  where to_regnamespace(quote_ident($1::text)) is not null
    and schema.name not in ($1::text, 'pg_temp', 'pg_catalog', 'postbell', '')
    and not exists (select from pg_class c join pg_namespace p on p.oid = c.relnamespace
                    where p.nspname = schema.name
                      and c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics'))
) theirs
