-- The brokers for the status page, with the inboxes that each owns.
-- Called by src/store/status.rs while somebody watches. Reads brokers whole, which has a row a broker; uses leases_broker.
select b.broker_id, b.name, b.version, b.armed, b.lease_until > clock_timestamp() as is_alive,
       extract(epoch from now() - b.started_at)::float8 as up_seconds, l.inboxes
from postbell.brokers b
cross join lateral (select count(*) as inboxes from postbell.leases l where l.broker_id = b.broker_id) l
order by b.started_at, b.broker_id
