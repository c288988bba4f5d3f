-- The facts that `postbell policies apply` must know before. missing: Supabase's roles that are not there; foreign: policies that
-- the mesh had, which ours narrow; shut_out: roles that use a table now and see no row once row level security is on.
-- Called by src/store/migrate/policies.rs. Reads the catalogs only.
with tables (oid, name, rls) as (
  select c.oid, c.relname::text, c.relrowsecurity
  from pg_class c
  where c.relnamespace = current_schema()::regnamespace and c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics')
)
select
  array(select r from unnest(array['anon', 'authenticated', 'service_role']) r where to_regrole(r) is null) as missing,
  array(select p.polname || ' on ' || t.name from pg_policy p join tables t on t.oid = p.polrelid
        where p.polname not like 'postbell\_%' order by 1) as foreign,
  array(select distinct g.rolname::text
        from tables t
        join pg_class c on c.oid = t.oid
        cross join aclexplode(c.relacl) acl
        join pg_roles g on g.oid = acl.grantee
        where not t.rls and g.oid <> c.relowner and not g.rolbypassrls and not g.rolsuper
          and g.rolname not in ('anon', 'authenticated', 'service_role') order by 1) as shut_out
