-- The broker stops: its leases and itself. $1 broker. Called by src/postgres/lease.rs. Uses leases_broker.
with given_back as (
  delete from postbell.leases where broker_id = $1
)
delete from postbell.brokers where broker_id = $1
