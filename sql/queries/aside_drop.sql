-- Operators let these rest: $1 numbers. They are tried and shown no more; the rows stay for as long as their messages, which
-- nobody delivers again because of them. Called by src/store/aside.rs. Uses the primary key.
update postbell.set_aside set dropped_at = now()
where aside_id = any ($1::bigint[]) and dropped_at is null and message_id is not null
