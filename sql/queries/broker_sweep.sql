-- Brokers that have been silent for $1 milliseconds, their leases, and the presence of the agents that were
-- connected to them. Called by src/postgres/reap.rs. Uses leases_broker and agent_registry's primary key.
with gone as (
  delete from postbell.brokers
  where lease_until < now() - $1::bigint * interval '1 millisecond'
  returning broker_id
), freed as (
  delete from postbell.leases l using gone where l.broker_id = gone.broker_id returning l.inbox
), absent as (
  update agent_registry r set status = 'offline', updated_at = now()
  from freed where r.agent_id = freed.inbox and r.status <> 'offline'
)
select count(*) from gone
