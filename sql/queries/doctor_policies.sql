-- Which of Supabase's API roles (or everybody) can read all rows of the user's tables: by a policy whose condition is true, or
-- because row level security is off (policy is null then).
-- Called by src/store/doctor/mesh.rs. Reads the catalogs only.
with readers (table_name, oid, rls, role_name, role_oid) as (
  select c.relname::text, c.oid, c.relrowsecurity, r.rolname::text, r.oid
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = current_schema()
  cross join pg_roles r
  where c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics')
    and r.rolname in ('anon', 'authenticated')
    and has_table_privilege(r.oid, c.oid, 'select')
  union all
  select c.relname::text, c.oid, c.relrowsecurity, 'public', 0
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname = current_schema()
  cross join aclexplode(c.relacl) acl
  where c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics')
    and acl.grantee = 0 and acl.privilege_type = 'SELECT'
)
select r.table_name, p.polname::text as policy, array_agg(distinct r.role_name order by r.role_name) as roles
from readers r
left join pg_policy p
  on r.rls and p.polrelid = r.oid and p.polpermissive and p.polcmd in ('r', '*')
 and pg_get_expr(p.polqual, p.polrelid) = 'true'
 and (0 = any (p.polroles) or r.role_oid = any (p.polroles))
where (not r.rls or p.oid is not null)
  -- A restrictive policy narrows what the others allow.
  and not exists (select from pg_policy x
                  where r.rls and x.polrelid = r.oid and not x.polpermissive and x.polcmd in ('r', '*'))
group by r.table_name, p.polname
order by 1, 2
