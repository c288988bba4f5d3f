-- Asks the owners for inboxes that this broker has sessions for and cannot link to: they look at their next renewal, a
-- second from now at most. $1 inboxes, $2 broker. Called by src/store/lease.rs. Uses leases' primary key.
update postbell.leases set wanted_until = clock_timestamp() + interval '3 seconds'
where inbox = any ($1::text[]) and broker_id <> $2
