-- Takes brokers that are gone from those of these agents that they had, one by one. A row for each: `offline` where it is written.
-- A row that somebody holds is left to presence_silent.sql.
-- Called by src/store/presence/search.rs, after broker_sweep_alone.sql. Uses agent_registry's primary key.
-- $1 brokers uuid[]
-- $2 agents text[]
-- $3 rows_max bigint
with left_behind as materialized (
  select array_agg(f.agent_id order by f.agent_id) as agents from (
    select l.agent_id from unnest($2::text[]) as a (agent_id)
    cross join lateral (
      select l.agent_id::text as agent_id from agent_registry l
      where l.agent_id = any (array[a.agent_id]) and l.connected_to && $1::uuid[]
      for no key update skip locked
    ) l
    limit $3::bigint
  ) f
)
select l.agent_id, coalesce(e.became, 'offline') as became, e.why
from unnest((select agents from left_behind)) as l (agent_id)
left join postbell.presence_each('gone', $1::uuid[], (select agents from left_behind), null, null, null, null) e
  on e.agent_id = l.agent_id
