-- The rights that this role lacks, for each table, view, sequence and function the broker works with; for a table also whether
-- row level security hides rows from the role (it owns the table without FORCE, or bypasses it). Schema postbell is listed
-- whole, except the triggers' functions, which nobody calls.
-- Called by src/store/rights.rs. Reads the catalogs only.
with users (name, privileges) as (
  values ('agent_messages', '{select,insert,update,delete}'::text[]),
         ('agent_registry', '{select,insert,update,delete}'),
         ('agent_alerts', '{select,insert,update}'),
         ('agent_metrics', '{select}')
), tables (schema, name, privileges) as (
  select current_schema()::text, name, privileges from users
  union all
  select 'postbell', c.relname::text,
         case when c.relkind = 'v' or c.relname in ('role_limits', 'grants', 'migrations', 'triggers') then '{select}'::text[]
              else '{select,insert,update,delete}' end
  from pg_class c
  where c.relnamespace = to_regnamespace('postbell') and c.relkind in ('r', 'v') and c.relname <> 'intact'
)
select t.schema || '.' || t.name as name,
       array(select p from unnest(t.privileges) p
             where not has_schema_privilege(n.oid, 'usage') or not has_table_privilege(c.oid, p)) as lacking,
       c.relkind = 'r' and c.relrowsecurity and not (me.rolsuper or me.rolbypassrls)
         and (c.relforcerowsecurity or not pg_has_role(c.relowner, 'usage')) as hides_rows,
       c.relforcerowsecurity as is_forced,
       current_user::text as role
from tables t
join pg_namespace n on n.nspname = t.schema
join pg_class c on c.relnamespace = n.oid and c.relname = t.name
join pg_roles me on me.rolname = current_user
union all
select 'sequence postbell.' || c.relname, array(select p from unnest(s.privileges) p
             where not has_schema_privilege(n.oid, 'usage') or not has_sequence_privilege(c.oid, p)),
       false, false, current_user::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'postbell'
cross join lateral (select case when c.relname = 'bell' then '{select,update}'::text[] else '{usage}' end as privileges) s
where c.relkind = 'S'
  -- The sequences of identity columns need no right.
  and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i')
union all
select 'function ' || p.oid::regprocedure,
       case when has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
            then '{}'::text[] else '{execute}' end,
       false, false, current_user::text
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'postbell'
where p.prorettype <> 'trigger'::regtype
  -- The policies have their own, for the API's roles.
  and p.proname not like 'api\_%'
order by 1
