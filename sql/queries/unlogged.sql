-- The unlogged tables among the user's and ours: a crash of the server empties them, and no standby has them.
-- Called by src/store/unlogged.rs. Reads the catalogs only.
select format('%I.%I', n.nspname, c.relname) as name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relpersistence = 'u' and c.relkind in ('r', 'p')
  and (n.nspname = 'postbell' or n.nspname = current_schema()
       and c.relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics'))
order by n.nspname = 'postbell', c.relname
