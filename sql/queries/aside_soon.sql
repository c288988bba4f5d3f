-- Has rows of set_aside tried now.
-- Called by src/store/aside.rs for an operator. Uses the primary key.
-- $1 numbers bigint[]
update postbell.set_aside set next_try = now()
where aside_id = any ($1::bigint[]) and dropped_at is null and message_id is not null
