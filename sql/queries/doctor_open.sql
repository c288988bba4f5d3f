-- Which parts of the mesh are open to Supabase's API roles (or everybody) besides reading, which doctor_policies.sql is for; and
-- which parts of schema postbell are open to anybody who should not have them.
-- Called by src/store/doctor/open.rs. Reads the catalogs only.
with api (role_name, oid) as (
  select rolname::text, oid from pg_roles where rolname in ('anon', 'authenticated')
), tables (name, oid, rls) as (
  select c.relname::text, c.oid, c.relrowsecurity
  from pg_class c
  where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
    and c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics')
), opened (object, problem, role_name) as (
  -- Without row level security a right is a right to every row.
  select t.name, 'writes', r.role_name
  from tables t cross join api r
  where not t.rls
    and (has_table_privilege(r.oid, t.oid, 'insert, update, delete')
         or has_any_column_privilege(r.oid, t.oid, 'insert, update'))
  union all
  -- Nor does it govern this one.
  select t.name, 'truncate', r.role_name
  from tables t cross join api r
  where has_table_privilege(r.oid, t.oid, 'truncate')
  union all
  -- A policy that lets every row be written, with no other to narrow it.
  select t.name || ' by policy "' || p.polname || '"', 'policy', r.role_name
  from tables t
  join pg_policy p on p.polrelid = t.oid and p.polpermissive and p.polcmd in ('a', 'w', 'd')
  join api r on 0 = any (p.polroles) or r.oid = any (p.polroles)
  where t.rls and 'true' = any (array[pg_get_expr(p.polqual, t.oid), pg_get_expr(p.polwithcheck, t.oid)])
    and not exists (select from pg_policy x where x.polrelid = t.oid and not x.polpermissive
                      and x.polcmd in (p.polcmd, '*') and (0 = any (x.polroles) or r.oid = any (x.polroles)))
  union all
  -- The hash of a token, also of one that is being replaced, in a row that may be read.
  select t.name, 'token_hash', r.role_name
  from tables t
  join pg_attribute a on a.attrelid = t.oid and a.attname ~ '^token_(.*_)?hash' and not a.attisdropped
  cross join api r
  where has_column_privilege(r.oid, t.oid, a.attnum, 'select')
    and (not t.rls or exists (select from pg_policy p where p.polrelid = t.oid and p.polpermissive and p.polcmd in ('r', '*')
                                and (0 = any (p.polroles) or r.oid = any (p.polroles))))
  union all
  select 'schema postbell', 'usage', r.role_name
  from pg_namespace n
  cross join (select role_name, oid from api
              union all
              select rolname::text, oid from pg_roles where rolname = 'service_role') r
  where n.nspname = 'postbell' and has_schema_privilege(r.oid, n.oid, 'usage')
  union all
  -- A function that runs with its owner's rights, and that all may call, or that looks in whatever schema comes first.
  select p.oid::regprocedure::text, 'definer', null
  from pg_proc p
  where p.pronamespace = to_regnamespace('postbell') and p.prosecdef
    and (not exists (select from unnest(p.proconfig) c where c like 'search_path=%')
         or exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl where acl.grantee = 0))
)
select object, problem, array_remove(array_agg(distinct role_name order by role_name), null) as roles
from opened
group by object, problem
order by problem, object
