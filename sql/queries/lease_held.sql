-- The inboxes that the table says are this broker's, after a renewal whose sum was another than the broker's own.
-- Called by src/store/lease.rs. Uses leases_broker.
-- $1 broker uuid
select inbox, epoch from postbell.leases where broker_id = $1
