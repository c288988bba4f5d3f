-- Removes what is left of an earlier Postbell and holds nothing, before a database is migrated from the beginning: it would be in
-- the way. After `drop schema postbell cascade` that is agent_uptime; after `pg_dump --schema-only` all of schema postbell, whose
-- tables are empty. A schema that holds something stays: src/store/migrate/copied.rs asked before. A schema postbell without our
-- table of triggers is somebody else's and stays. The user's tables and their rows stay as they are.
-- Called by src/store/migrate/copied.rs. Reads the catalogs.
do $$
declare
  statement text;
  -- All names before anything goes: an object that went with another has none.
  statements text[];
begin
  if to_regprocedure('agent_uptime(interval)') is not null
     and (select prosrc like '%postbell.presence_history%' from pg_proc where oid = to_regprocedure('agent_uptime(interval)')) then
    drop function agent_uptime(interval);
  end if;
  if to_regclass('postbell.triggers') is null then
    return;
  end if;
  statements := array(
    select format('drop %s if exists %s cascade',
                  case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from pg_class c
    where c.relnamespace = to_regnamespace('postbell') and c.relkind in ('v', 'r', 'S')
      and not exists (select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i')
    union all
    select format('drop function if exists %s cascade', p.oid::regprocedure)
    from pg_proc p where p.pronamespace = to_regnamespace('postbell')
    union all
    select format('drop type if exists %s cascade', t.oid::regtype)
    from pg_type t where t.typnamespace = to_regnamespace('postbell') and t.typtype = 'e');
  foreach statement in array statements loop
    execute statement;
  end loop;
end $$
