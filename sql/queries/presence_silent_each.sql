-- Does the same as presence_silent.sql for these agents, one by one. A row for each that is silent: `offline` where it is now. A row
-- that somebody holds is left for the next time; the others stay as they are until they are written.
-- Called by src/store/presence/search.rs, after the statement for all agents failed. Uses agent_registry's primary key.
-- $1 silent_seconds bigint
-- $2 left_behind_seconds bigint
-- $3 agents text[]
-- $4 rows_max bigint
with late as materialized (
  select array_agg(f.agent_id order by f.agent_id) as agents from (
    select l.agent_id from unnest($3::text[]) as a (agent_id)
    cross join lateral (
      select l.agent_id::text as agent_id from agent_registry l
      where l.agent_id = any (array[a.agent_id]) and l.status <> 'offline'
        and coalesce(l.last_heartbeat, l.updated_at, '-infinity') < now() - interval '1 second' * case
          when cardinality(l.connected_to) > 0
               and not exists (select from postbell.brokers b where b.broker_id = any (l.connected_to) offset 0)
          then $2::bigint else $1::bigint end
      for no key update skip locked
    ) l
    limit $4::bigint
  ) f
)
select l.agent_id, coalesce(e.became, 'offline') as became, e.why
from unnest((select agents from late)) as l (agent_id)
left join postbell.presence_each('silent', null, (select agents from late), null, null, null, null) e
  on e.agent_id = l.agent_id
