-- Fails messages that expired while nobody was there to take them. A message that is with an agent is marked delivered within a
-- second, and is left alone.
-- Called by src/store/reap.rs. Uses agent_messages_expires and deliveries_message.
-- $1 rows_max bigint
-- $2 grace_ms bigint: covers that second
with late as (
  select message_id from agent_messages m
  where expires_at is not null and expires_at < now() - $2::bigint * interval '1 millisecond'
    and coalesce(status, 'pending') = 'pending'
    -- A message whose outcome is set aside is left alone: the outcome waits there.
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  limit $1::bigint
  for no key update skip locked
), removed as (
  delete from postbell.deliveries d using late where d.message_id = any (array[late.message_id]) and d.state <> 'dead'
), marked as (
  update agent_messages m set status = 'failed', error_message = 'expired before it was delivered'
  from late where m.message_id = any (array[late.message_id])
  returning m.message_id, coalesce(m.to_agent_id, 'group:' || m.to_group, '*') as inbox, m.status
), kept as (
  -- A trigger of the user's put the status back: the message would be found again and again.
  insert into postbell.set_aside (message_id, inbox, kind, status, error_message, reason, next_try)
  select message_id, inbox, 'expired', 'failed', 'expired before it was delivered',
         'a trigger of agent_messages puts the status back: let it pass what sessions with the setting postbell.broker = on write',
         now() + interval '30 seconds'
  from marked where coalesce(status, 'pending') = 'pending'
  on conflict (message_id, inbox) where message_id is not null do nothing
)
select count(*) from marked
