-- For each table, sequence and function the broker works with: which rights this role lacks; and of a table, whether row
-- level security hides rows from it (it owns the table without FORCE, or bypasses it). Called by src/postgres/doctor/house.rs. Catalogs only.
with tables (schema, name, privileges) as (
  values (current_schema()::text, 'agent_messages', '{select,insert,update,delete}'::text[]),
         (current_schema()::text, 'agent_registry', '{select,insert,update,delete}'),
         (current_schema()::text, 'agent_alerts', '{select,insert,update}'),
         (current_schema()::text, 'agent_metrics', '{select}'),
         ('postbell', 'deliveries', '{select,insert,update,delete}'),
         ('postbell', 'brokers', '{select,insert,update,delete}'),
         ('postbell', 'leases', '{select,insert,update,delete}'),
         ('postbell', 'role_limits', '{select}'),
         ('postbell', 'grants', '{select}'),
         ('postbell', 'presence_history', '{select,insert,update,delete}'),
         ('postbell', 'escalations', '{select,insert,update,delete}')
)
select t.schema || '.' || t.name as name,
       array(select p from unnest(t.privileges) p
             where not has_schema_privilege(n.oid, 'usage') or not has_table_privilege(c.oid, p)) as lacking,
       c.relrowsecurity and not (me.rolsuper or me.rolbypassrls)
         and (c.relforcerowsecurity or not pg_has_role(c.relowner, 'usage')) as hides_rows,
       c.relforcerowsecurity as is_forced,
       current_user::text as role
from tables t
join pg_namespace n on n.nspname = t.schema
join pg_class c on c.relnamespace = n.oid and c.relname = t.name
join pg_roles me on me.rolname = current_user
union all
select 'sequence postbell.' || s.name,
       array(select p from unnest(s.privileges) p
             where not has_schema_privilege(n.oid, 'usage') or not has_sequence_privilege(c.oid, p)),
       false, false, current_user::text
from (values ('bell', '{select,update}'::text[]), ('epochs', '{usage}')) s (name, privileges)
join pg_namespace n on n.nspname = 'postbell'
join pg_class c on c.relnamespace = n.oid and c.relname = s.name
union all
select 'function ' || p.oid::regprocedure,
       case when has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
            then '{}'::text[] else '{execute}' end,
       false, false, current_user::text
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'postbell'
where p.proname in ('arm', 'may_use')
order by 1
