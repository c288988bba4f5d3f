-- Acknowledged: their messages are processed, the deliveries go. $1 delivery ids, $2 attempts: one that does not match was
-- settled before, or is another attempt's. Called by src/postgres/settle.rs. Uses the primary keys; deliveries_message for a
-- broadcast, which is processed when its last delivery is settled.
-- The message's row before its delivery's, as a poller's UPDATE and its trigger take them (settle_session.sql).
-- `any (array[…])` and not `=`, which can be turned round: a plan made while the table was empty walked all of the
-- primary key and looked for each row among those to settle.
-- One row: the deliveries that were changed, null for all of them, and the messages that were not.
with those as materialized (
  select d.delivery_id, d.attempt, d.message_id
  from unnest($1::bigint[], $2::smallint[]) as a (delivery_id, attempt)
  cross join lateral (
    select * from postbell.deliveries w
    where w.delivery_id = any (array[a.delivery_id]) and w.attempt = a.attempt and w.state <> 'dead'
    offset 0
  ) d
), counted as materialized (
  select message_id, count(*) as n from those group by message_id
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
  returning m.message_id
), settled as (
  delete from postbell.deliveries d using those t
  where d.delivery_id = any (array[t.delivery_id]) and d.attempt = t.attempt and d.state <> 'dead'
    -- Asks for all of the messages first.
    and (select count(*) from marked) >= 0
  returning d.delivery_id
)
select case when count(*) < cardinality($1) then coalesce(array_agg(delivery_id), '{}') end as changed,
       case when (select count(*) from marked) < (select count(*) from counted) then
         (select array_agg(message_id) from (select message_id from counted except select message_id from marked) u)
       end as unmarked
from settled
