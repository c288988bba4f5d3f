-- Gives inboxes back. A statement that its broker has given up may run later, when the broker has taken an inbox anew: the epoch
-- tells, and that lease stays.
-- Called by src/store/lease.rs. Uses leases' primary key.
-- $1 inboxes text[]
-- $2 epochs bigint[]: of the ownerships that end
-- $3 broker uuid
delete from postbell.leases l using unnest($1::text[], $2::bigint[]) as g (inbox, epoch)
where l.inbox = any (array[g.inbox]) and l.epoch = g.epoch and l.broker_id = $3
