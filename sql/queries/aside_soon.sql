-- What of set_aside operators want to be tried now: $1 numbers. Called by src/store/aside.rs. Uses the primary key.
update postbell.set_aside set next_try = now()
where aside_id = any ($1::bigint[]) and dropped_at is null and message_id is not null
