-- Ends the lease of a broker that stops, after broker_leave.sql was refused. The inboxes are free at once, and broker_sweep.sql
-- removes its row.
-- Called by src/store/lease.rs. Uses brokers' primary key.
-- $1 broker uuid
update postbell.brokers set lease_until = clock_timestamp() where broker_id = $1
