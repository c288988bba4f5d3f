-- What keeps a table of the user's from being adopted: a line for each column that is missing or of another type.
-- No row: each table is missing, or is one of ours. Called by src/postgres/migrate.rs.
with wanted (table_name, column_name, types) as (values
  ('agent_messages', 'message_id', '{uuid}'::text[]),
  ('agent_messages', 'from_agent_id', '{text,varchar}'),
  ('agent_messages', 'to_agent_id', '{text,varchar}'),
  ('agent_messages', 'message_type', '{text,varchar}'),
  ('agent_messages', 'payload', '{jsonb}'),
  ('agent_messages', 'priority', '{int2,int4}'),
  ('agent_messages', 'status', '{text,varchar}'),
  ('agent_messages', 'created_at', '{timestamptz}'),
  ('agent_messages', 'delivered_at', '{timestamptz}'),
  ('agent_messages', 'processed_at', '{timestamptz}'),
  ('agent_messages', 'error_message', '{text,varchar}'),
  ('agent_registry', 'agent_id', '{text,varchar}'),
  ('agent_registry', 'agent_name', '{text,varchar}'),
  ('agent_registry', 'agent_type', '{text,varchar}'),
  ('agent_registry', 'environment', '{text,varchar}'),
  ('agent_registry', 'status', '{text,varchar}'),
  ('agent_registry', 'last_heartbeat', '{timestamptz}'),
  ('agent_registry', 'updated_at', '{timestamptz}')
), added (table_name, column_name, types) as (values
  -- May be missing; where they are there, they must be what the broker writes.
  ('agent_messages', 'correlation_id', '{text,varchar}'::text[]),
  ('agent_messages', 'dedupe_key', '{text,varchar}'),
  ('agent_messages', 'deliver_at', '{timestamptz}'),
  ('agent_messages', 'expires_at', '{timestamptz}'),
  ('agent_messages', 'headers', '{jsonb}'),
  ('agent_registry', 'role', '{text,varchar}'),
  ('agent_registry', 'enabled', '{bool}'),
  ('agent_registry', 'token_hash', '{bytea}'),
  ('agent_registry', 'token_set_at', '{timestamptz}')
), found as (
  select c.relname::text as table_name, a.attname::text as column_name, t.typname::text as type_name
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
  where c.oid in (to_regclass('agent_messages'), to_regclass('agent_registry'))
)
select w.table_name, w.column_name, f.type_name, w.types[1] as wanted_type
from (select *, true as required from wanted union all select *, false from added) w
left join found f using (table_name, column_name)
where to_regclass(w.table_name) is not null
  and case when f.type_name is null then w.required else not f.type_name = any (w.types) end
order by w.table_name, w.column_name
