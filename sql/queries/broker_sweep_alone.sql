-- Does the same as broker_sweep.sql without the agents, after that statement failed. Gives the brokers.
-- Called by src/store/reap.rs. Uses leases_broker.
-- $1 silent_ms bigint
-- $2 broker uuid: the one that sweeps
with gone as (
  delete from postbell.brokers
  where lease_until < now() - $1::bigint * interval '1 millisecond' and broker_id <> $2
  returning broker_id
), freed as (
  delete from postbell.leases l using gone where l.broker_id = gone.broker_id
)
select array(select broker_id from gone) as brokers
