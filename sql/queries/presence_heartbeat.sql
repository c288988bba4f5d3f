-- Writes agents with a session here: alive now. A status that an agent set itself (busy, error) is left alone while the agent
-- lives. One row: a digest of the rows that their hellos were checked against. The digest changes when somebody's access changed,
-- or when other agents are here. Then the agents that were not written, null for none. `is_bare`: this ran no trigger of the user's and
-- could defer nothing to the COMMIT, so the next one needs no transaction around it.
-- Called by src/store/presence.rs. Uses agent_registry's primary key and the catalog's.
-- $1 broker uuid
-- $2 agents text[]: sorted
with here as (
  update agent_registry r
  set last_heartbeat = now(), updated_at = now(),
      -- Another broker may have taken this one for dead, or somebody has made the row anew.
      connected_to = case when $1::uuid = any (r.connected_to) then r.connected_to
                          else array_append(r.connected_to, $1::uuid) end,
      status = case when r.status in ('offline', 'starting', 'stopping') then 'online' else r.status end,
      offline_reason = case when r.status <> 'offline' then r.offline_reason end
  from unnest($2::text[]) as h (agent_id)
  cross join lateral (
    -- A row that somebody holds goes without.
    select l.agent_id from agent_registry l where l.agent_id = any (array[h.agent_id]) for no key update skip locked
  ) free
  where r.agent_id = any (array[free.agent_id])
  returning r.agent_id, r.enabled, r.role, r.token_hash,
            case when r.token_previous_until > now() then r.token_hash_previous end as token_hash_previous
)
select coalesce(sum(hashtextextended(here::text, 0)), 0)::text as access,
       case when count(*) < cardinality($2)
            then array(select unnest($2) except select agent_id::text from here order by 1) end as unwritten,
       exists (
         select from pg_class c
         where c.oid = to_regclass('agent_registry')::oid and c.relkind = 'r' and not c.relhassubclass and not c.relhasrules
           and not exists (select from pg_trigger t
                           where t.tgrelid = c.oid and (t.tgdeferrable or not (t.tgisinternal or t.tgname like 'postbell\_%')))
       ) as is_bare
from here
