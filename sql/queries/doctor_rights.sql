-- For each table the broker works with: which rights this role lacks, and whether row level security hides rows from
-- it (it owns the table without FORCE, or bypasses it). Called by src/postgres/doctor/house.rs. Catalogs only.
with tables (schema, name, privileges) as (
  values (current_schema()::text, 'agent_messages', '{select,insert,update,delete}'::text[]),
         (current_schema()::text, 'agent_registry', '{select,insert,update,delete}'),
         ('postbell', 'deliveries', '{select,insert,update,delete}'),
         ('postbell', 'brokers', '{select,insert,update,delete}'),
         ('postbell', 'leases', '{select,insert,update,delete}'),
         ('postbell', 'role_limits', '{select}')
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
order by 1
