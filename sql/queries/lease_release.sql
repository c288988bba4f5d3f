-- Gives inboxes back.
-- Called by src/store/lease.rs. Uses leases' primary key.
-- $1 inboxes text[]
-- $2 broker uuid
delete from postbell.leases where inbox = any ($1::text[]) and broker_id = $2
