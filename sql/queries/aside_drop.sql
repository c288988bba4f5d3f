-- Lets rows rest: they are tried and shown no more. They stay for as long as their messages, which nobody delivers again
-- because of them.
-- Called by src/store/aside.rs for an operator. Uses the primary key.
-- $1 numbers bigint[]
update postbell.set_aside set dropped_at = now()
where aside_id = any ($1::bigint[]) and dropped_at is null and message_id is not null
