-- Removes a broker that stops, its leases, and its name from agents whose end it could not write.
-- Called by src/store/lease.rs. Uses leases_broker; reads agent_registry once.
-- $1 broker uuid
with given_back as (
  delete from postbell.leases where broker_id = $1
), absent as (
  update agent_registry r
  set updated_at = now(), connected_to = array_remove(r.connected_to, $1),
      status = case when cardinality(r.connected_to) > 1 then r.status else 'offline' end,
      offline_reason = case when cardinality(r.connected_to) > 1 then r.offline_reason else 'disconnected' end
  where $1 = any (r.connected_to)
)
delete from postbell.brokers where broker_id = $1
