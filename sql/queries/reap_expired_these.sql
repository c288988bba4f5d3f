-- Does for these messages what reap_expired.sql does for all that expired.
-- Called by src/store/reap.rs. Uses agent_messages' primary key and deliveries_message.
-- $1 messages uuid[]
with late as (
  select message_id from agent_messages m
  where m.message_id = any ($1::uuid[]) and coalesce(status, 'pending') = 'pending'
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
