-- Removes brokers that have been silent too long, with their leases, and the presence of the agents that were connected to them
-- and to no other.
-- Called by src/store/reap.rs. Uses leases_broker; the registry is read, whole, only where a broker is gone.
-- $1 silent_ms bigint
-- $2 broker uuid: the one that sweeps; after an outage of the database it is as silent as the others, and it lives
with gone as (
  delete from postbell.brokers
  where lease_until < now() - $1::bigint * interval '1 millisecond' and broker_id <> $2
  returning broker_id
), freed as (
  delete from postbell.leases l using gone where l.broker_id = gone.broker_id
), those as (
  select array_agg(broker_id) as ids from gone having count(*) > 0
), absent as (
  update agent_registry r
  set updated_at = now(),
      connected_to = array(select b from unnest(r.connected_to) b where b <> all (those.ids)),
      status = case when r.connected_to <@ those.ids then 'offline' else r.status end,
      offline_reason = case when r.connected_to <@ those.ids then 'broker_gone' else r.offline_reason end
  from those
  -- Looked for only if there is a broker to look for.
  cross join lateral (select l.agent_id from agent_registry l where l.connected_to && those.ids for no key update skip locked) left_behind
  where r.agent_id = any (array[left_behind.agent_id]) and r.connected_to && those.ids
)
select count(*) from gone
