-- Asks the owners for inboxes that this broker has sessions for and cannot link to. The owners look at their next renewal, a
-- second from now at most.
-- Called by src/store/lease.rs. Uses leases' primary key.
-- $1 inboxes text[]
-- $2 broker uuid
update postbell.leases set wanted_until = clock_timestamp() + interval '3 seconds'
where inbox = any ($1::text[]) and broker_id <> $2
