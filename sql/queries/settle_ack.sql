-- Settles acknowledged deliveries: the deliveries go, their messages are processed. One row: the deliveries that were changed,
-- null for all of them, and the messages that were not.
-- The delivery comes before its message, which is not the order of pollers: that order reads each delivery twice and costs 1.3
-- times as much. A poller is no deadlock's victim all the same (settle_session.sql), and the other statements take the message
-- first. `any (array[…])` and not `=`, which can be turned round: a plan made while the table was empty walked all of the
-- primary key and looked for each row among those to settle.
-- Called by src/store/settle.rs. Uses the primary keys; deliveries_message for a broadcast, which is processed when its last
-- delivery is settled.
-- $1 deliveries bigint[]
-- $2 attempts smallint[]: a delivery whose attempt does not match was settled before, or is another attempt's
with settled as (
  delete from postbell.deliveries d
  using unnest($1::bigint[], $2::smallint[]) as a (delivery_id, attempt)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead'
  returning d.delivery_id, d.message_id
), counted as (
  select message_id, count(*) as n from settled group by message_id
), marked as (
  update agent_messages m
  set status = 'processed', processed_at = now(), delivered_at = coalesce(m.delivered_at, now())
  from counted c
  where m.message_id = any (array[c.message_id])
    and (coalesce(m.to_agent_id, m.to_group) is not null
         -- The statement's snapshot still shows what it deletes: were these all? Looking for the others instead would
         -- compare each delivery of a broadcast with each one settled here, once for each.
         or c.n = (select count(*) from (select from postbell.deliveries o
                                         where o.message_id = c.message_id limit c.n + 1) w))
  returning m.message_id, coalesce(m.to_agent_id, 'group:' || m.to_group, '*') as inbox,
            coalesce(m.status, 'pending') in ('pending', 'delivered') as is_kept
), kept as (
  -- A trigger of the user's put the status back. Nobody would learn of it later, since the delivery is gone.
  insert into postbell.set_aside (message_id, inbox, kind, status, reason, next_try)
  select message_id, inbox, 'ack', 'processed',
         'a trigger of agent_messages puts the status back: let it pass what sessions with the setting postbell.broker = on write',
         now() + interval '30 seconds'
  from marked where is_kept
  on conflict (message_id, inbox) where message_id is not null do nothing
)
select case when count(*) < cardinality($1) then coalesce(array_agg(delivery_id), '{}') end as changed,
       case when (select count(*) from marked) < (select count(*) from counted) then
         (select array_agg(message_id) from (select message_id from counted except select message_id from marked) u)
       end as unmarked
from settled
