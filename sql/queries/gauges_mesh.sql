-- The mesh as a whole: who is where, who sends to whom, and the dead letters. The flow ends two seconds ago, since a row that is
-- inserted now may commit a little later; one that takes longer to commit is not seen. The kinds of rows:
--   until   where the flow ended
--   agents  agents by environment (a) and status (b)
--   flow    messages from environment a to b
--   pair    messages from agent a to b
--   dead    dead letters of agent a; without a name those of the others together
--   alerts  unresolved alerts of the last 30 days, by severity (a) and status (b)
-- Called by src/store/gauges.rs every 15 seconds, when somebody asks for the metrics. Uses agent_messages_created_at for the
-- messages since then (a minute's at most), deliveries_dead whole, agent_alerts_created_at where it is ours; walks the registry.
-- $1 since timestamp with time zone: where the last reading's flow ended
-- $2 pairs_max bigint
-- $3 dead_max bigint: agents with dead letters that are named
-- $4 alerts_max bigint: kinds of alerts
with sent as materialized (
  select from_agent_id, to_agent_id, to_environment, to_group is not null as is_for_group, count(*) as messages
  from agent_messages
  where created_at >= greatest($1::timestamptz, now() - interval '1 minute') and created_at < now() - interval '2 seconds'
  group by from_agent_id, to_agent_id, to_environment, is_for_group
), flow as materialized (
  select coalesce(s.agent_id, '(not registered)') as from_agent, coalesce(r.agent_id, t.others) as to_agent,
         coalesce(s.environment, '(not registered)') as from_environment,
         coalesce(r.environment, sent.to_environment, t.others) as to_environment, messages
  from sent
  cross join lateral (
    select case when to_agent_id is not null then '(not registered)' when is_for_group then '(group)' else '(many)' end
  ) t (others)
  left join agent_registry s on s.agent_id = sent.from_agent_id
  left join agent_registry r on r.agent_id = sent.to_agent_id
), dead as (
  select inbox, count(*) as letters, row_number() over (order by count(*) desc, inbox) as place
  from postbell.deliveries where state = 'dead' group by inbox
)
select 'until' as kind, null as a, null as b, null::bigint as n, now() - interval '2 seconds' as until
union all
select 'agents', coalesce(environment, 'unknown') as e, coalesce(status, 'unknown') as s, count(*), null
from agent_registry where enabled is not false group by e, s
union all
select 'flow', from_environment, to_environment, sum(messages)::bigint, null from flow group by 2, 3
union all
(select 'pair', from_agent, to_agent, sum(messages)::bigint, null
 from flow group by 2, 3 order by 4 desc, 2, 3 limit $2::bigint)
union all
(select 'alerts', coalesce(severity, 'unknown') as severity, coalesce(status, 'active') as status, count(*), null
 from agent_alerts where status is distinct from 'resolved' and created_at > now() - interval '30 days'
 group by 2, 3 order by 4 desc limit $4::bigint)
union all
select 'dead', case when place <= $3::bigint then inbox end as name, null, sum(letters)::bigint, null from dead group by 2
