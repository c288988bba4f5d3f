-- The triggers that were installed: the digest of the text, and how Postgres has each now: O or A fires, D is disabled, R fires
-- only for a replica, null was dropped.
-- Called by src/store/migrate/state.rs. Reads a few rows.
select t.name, t.sha256, g.tgenabled::text as enabled,
       t.applied_at
from postbell.triggers t
left join pg_trigger g
  on g.tgrelid in (to_regclass('agent_messages'), to_regclass('agent_registry'), to_regclass('agent_alerts'))
 and g.tgname = 'postbell_' || t.name and not g.tgisinternal
order by t.name
