-- Gives inboxes back. $1 inboxes, $2 broker. Called by src/store/lease.rs. Uses leases' primary key.
delete from postbell.leases where inbox = any ($1::text[]) and broker_id = $2
