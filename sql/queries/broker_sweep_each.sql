-- Does the same as broker_sweep.sql with the registry agent by agent, after that statement was refused.
-- Called by src/store/reap.rs. Uses leases_broker; the registry is read, whole, only where a broker is gone.
-- $1 silent_ms bigint
-- $2 broker uuid: the one that sweeps
with gone as (
  delete from postbell.brokers
  where lease_until < now() - $1::bigint * interval '1 millisecond' and broker_id <> $2
  returning broker_id
), freed as (
  delete from postbell.leases l using gone where l.broker_id = gone.broker_id
), those as materialized (
  select array_agg(broker_id) as ids from gone having count(*) > 0
), absent as materialized (
  select p.agent_id from those
  cross join lateral (
    select array_agg(l.agent_id::text order by l.agent_id) as agents from agent_registry l where l.connected_to && those.ids
    offset 0
  ) l
  cross join lateral postbell.presence_each('gone', those.ids, l.agents, null, null, null, null) p
)
select count(*) as n, (select count(*) from absent) as absent from gone
