-- Why the user's tables cannot be adopted: no row where they can, or are missing. Each row is a fault of one column:
--   missing   a column that every mesh has is not there
--   type      it is there, with a type that the broker cannot use
--   required  a column of the user's own that the broker would have to fill in (it writes no metrics)
--   generated the broker writes it, and the table computes it
--   default   it says whom a message is for or how it is delivered, and a default would say so of every message
--   collation it takes different texts for the same, and the broker and an inbox's name do not
--   key       the id is no primary key and not unique at once: one message could be two
--   kind      not an ordinary table (metrics may be partitioned: they are only read)
-- Every column that a migration adds is listed (tests/it/adoption.rs compares). Constraints, triggers and lengths are not looked
-- at here: rehearsal.sql tries them.
-- Called by src/store/adopt.rs. Reads the catalogs only.
-- $1 tables text[]
with wanted (table_name, column_name, types, needed) as (
  values
    ('agent_messages', 'message_id', '{uuid}', true),
    ('agent_messages', 'from_agent_id', '{text,varchar}', true),
    ('agent_messages', 'to_agent_id', '{text,varchar}', true),
    ('agent_messages', 'message_type', '{text,varchar}', true),
    ('agent_messages', 'payload', '{jsonb}', true),
    ('agent_messages', 'priority', '{integer,smallint}', true),
    ('agent_messages', 'status', '{text,varchar}', true),
    ('agent_messages', 'created_at', '{timestamptz}', true),
    ('agent_messages', 'delivered_at', '{timestamptz}', true),
    ('agent_messages', 'processed_at', '{timestamptz}', true),
    ('agent_messages', 'error_message', '{text,varchar}', true),
    ('agent_messages', 'correlation_id', '{text,varchar}', false),
    ('agent_messages', 'dedupe_key', '{text,varchar}', false),
    ('agent_messages', 'deliver_at', '{timestamptz}', false),
    ('agent_messages', 'expires_at', '{timestamptz}', false),
    ('agent_messages', 'headers', '{jsonb}', false),
    ('agent_messages', 'topic', '{text,varchar}', false),
    ('agent_messages', 'to_environment', '{text,varchar}', false),
    ('agent_messages', 'to_group', '{text,varchar}', false),
    ('agent_messages', 'to_instance', '{text,varchar}', false),
    ('agent_messages', 'ordering_key', '{text,varchar}', false),
    ('agent_messages', 'left_txid', '{xid8}', false),
    ('agent_messages', 'left_at', '{timestamptz}', false),
    ('agent_registry', 'agent_id', '{text,varchar}', true),
    ('agent_registry', 'agent_name', '{text,varchar}', true),
    ('agent_registry', 'agent_type', '{text,varchar}', true),
    ('agent_registry', 'environment', '{text,varchar}', true),
    ('agent_registry', 'status', '{text,varchar}', true),
    ('agent_registry', 'last_heartbeat', '{timestamptz}', true),
    ('agent_registry', 'updated_at', '{timestamptz}', true),
    ('agent_registry', 'role', '{text,varchar}', false),
    ('agent_registry', 'enabled', '{boolean}', false),
    ('agent_registry', 'token_hash', '{bytea}', false),
    ('agent_registry', 'token_set_at', '{timestamptz}', false),
    ('agent_registry', 'token_hash_previous', '{bytea}', false),
    ('agent_registry', 'token_previous_until', '{timestamptz}', false),
    ('agent_registry', 'capabilities', '{jsonb}', false),
    ('agent_registry', 'agent_version', '{text,varchar}', false),
    ('agent_registry', 'connected_to', '{uuid[]}', false),
    ('agent_registry', 'offline_reason', '{text,varchar}', false),
    ('agent_alerts', 'alert_id', '{uuid}', true),
    ('agent_alerts', 'agent_id', '{text,varchar}', true),
    ('agent_alerts', 'alert_type', '{text,varchar}', true),
    ('agent_alerts', 'severity', '{text,varchar}', true),
    ('agent_alerts', 'message', '{text,varchar}', true),
    ('agent_alerts', 'details', '{jsonb}', true),
    ('agent_alerts', 'status', '{text,varchar}', true),
    ('agent_alerts', 'created_at', '{timestamptz}', true),
    ('agent_alerts', 'acknowledged_at', '{timestamptz}', true),
    ('agent_alerts', 'resolved_at', '{timestamptz}', true),
    ('agent_alerts', 'resolved_by', '{text,varchar}', true),
    ('agent_alerts', 'escalated_at', '{timestamptz}', false),
    ('agent_metrics', 'agent_id', '{text,varchar}', true),
    ('agent_metrics', 'metric_name', '{text,varchar}', true),
    ('agent_metrics', 'metric_value', '{numeric,float8,float4,bigint,integer}', true),
    ('agent_metrics', 'recorded_at', '{timestamptz}', true)
), empty_unless_asked (column_name) as (
  values ('topic'), ('to_environment'), ('to_group'), ('to_instance'), ('ordering_key'), ('dedupe_key')
), tables (table_name, oid, relkind, is_part, heirs) as (
  select c.relname::text, c.oid, c.relkind, exists (select from pg_inherits i where i.inhrelid = c.oid),
         (select string_agg(i.inhrelid::regclass::text, ', ' order by 1) from pg_inherits i where i.inhparent = c.oid)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = current_schema() and c.relname = any ($1::text[])
), columns as (
  select t.table_name, t.oid, a.attnum, a.attname::text as column_name, a.atttypid,
         format_type(a.atttypid, null) as type,
         a.attnotnull and not a.atthasdef and a.attidentity = '' as is_required,
         a.attgenerated <> '' or a.attidentity <> '' as is_generated, pg_get_expr(d.adbin, d.adrelid) as default_value,
         (select l.collname::text from pg_collation l where l.oid = a.attcollation and not l.collisdeterministic) as collation
  from tables t
  join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
), faults (table_name, fault, column_name, wanted, found) as (
  select t.table_name, 'kind', '', 'an ordinary table',
         case t.relkind when 'v' then 'a view' when 'm' then 'a materialized view' when 'p' then 'a partitioned table'
                        when 'f' then 'a foreign table' else 'something else' end
  from tables t where t.relkind <> 'r' and (t.table_name, t.relkind) <> ('agent_metrics', 'p')
  union all
  -- A row that comes by another table fires no trigger of this one.
  select t.table_name, 'kind', '', 'a table by itself',
         case when t.is_part then 'a part of another table, by partition or inheritance' else 'a table that others inherit from (' || t.heirs || ')' end
  from tables t where t.relkind = 'r' and t.table_name <> 'agent_metrics' and (t.is_part or t.heirs is not null)
  union all
  select w.table_name, case when c.column_name is null then 'missing' else 'type' end, w.column_name,
         array_to_string(w.types::text[], ' or '), c.type
  from wanted w
  join tables t using (table_name)
  left join columns c using (table_name, column_name)
  where case when c.column_name is null then w.needed else c.atttypid <> all (w.types::regtype[]::oid[]) end
  union all
  select c.table_name, 'required', c.column_name, 'a default, or to allow null', 'not null without a default'
  from columns c
  where c.is_required and c.table_name <> 'agent_metrics' and not exists (
    select from wanted w where w.table_name = c.table_name and w.column_name = c.column_name)
  union all
  select c.table_name, 'generated', c.column_name, 'a column that can be written', 'generated'
  from columns c join wanted w using (table_name, column_name)
  where c.is_generated and c.table_name <> 'agent_metrics' and (c.table_name, c.column_name) <> ('agent_messages', 'created_at')
  union all
  select c.table_name, 'default', c.column_name, 'no default', c.default_value
  from columns c join empty_unless_asked using (column_name)
  where c.table_name = 'agent_messages' and not c.is_generated and c.default_value !~* '^null(::|$)'
  union all
  select c.table_name, 'collation', c.column_name, 'a deterministic collation', c.collation
  from columns c join wanted w using (table_name, column_name)
  where c.collation is not null
  union all
  select c.table_name, 'key', c.column_name, 'a primary key', 'not unique'
  from columns c join wanted w using (table_name, column_name) join tables t using (table_name)
  where (c.table_name, c.column_name) in (('agent_messages', 'message_id'), ('agent_registry', 'agent_id'),
                                           ('agent_alerts', 'alert_id')) and t.relkind = 'r' and not exists (
    select from pg_index i
    where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
      and i.indnkeyatts = 1 and i.indkey[0] = c.attnum)
)
select f.table_name, f.fault, f.column_name, f.wanted, f.found, current_schema()::text as schema,
       (select array_agg(c.column_name order by c.attnum) from columns c
        where c.table_name = f.table_name) as has
from faults f
order by f.table_name, f.fault, f.column_name
