-- The messages that reap_expired.sql would fail.
-- Called by src/store/reap.rs, after the server process ended at one of them. Uses agent_messages_expires.
-- $1 rows_max bigint
-- $2 grace_ms bigint
select array(
  select message_id from agent_messages m
  where expires_at is not null and expires_at < now() - $2::bigint * interval '1 millisecond'
    and coalesce(status, 'pending') = 'pending'
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  limit $1::bigint) as messages
