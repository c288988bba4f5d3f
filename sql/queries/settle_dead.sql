-- Makes deliveries dead letters. A broadcast fails only in this recipient's delivery. Gives what settle_ack.sql gives.
-- Called by src/store/settle.rs. Uses the primary keys and the locks as settle_ack.sql does.
-- $1 deliveries bigint[]
-- $2 attempts smallint[]
-- $3 added smallint[]: how many attempts to add
-- $4 reasons text[]
with those as materialized (
  select d.delivery_id, d.attempt, d.message_id, a.added, a.reason
  from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::text[]) as a (delivery_id, attempt, added, reason)
  cross join lateral (
    select * from postbell.deliveries w
    where w.delivery_id = any (array[a.delivery_id]) and w.attempt = a.attempt and w.state <> 'dead'
    offset 0
  ) d
), marked as (
  update agent_messages m set status = 'failed', error_message = t.reason
  from those t
  where m.message_id = any (array[t.message_id]) and coalesce(m.to_agent_id, m.to_group) is not null
  returning m.message_id, t.delivery_id, t.reason, coalesce(m.to_agent_id, 'group:' || m.to_group) as inbox,
            coalesce(m.status, 'pending') in ('pending', 'delivered') as is_kept
), settled as (
  update postbell.deliveries d
  set state = 'dead', dead_at = now(), due_at = null, attempt = d.attempt + t.added, last_error = t.reason
  from those t
  where d.delivery_id = any (array[t.delivery_id]) and d.attempt = t.attempt and d.state <> 'dead'
    and (select count(*) from marked) >= 0
  returning d.delivery_id
), kept as (
  -- A trigger of the user's put the status back.
  insert into postbell.set_aside (message_id, delivery_id, inbox, kind, status, error_message, reason, next_try)
  select message_id, delivery_id, inbox, 'dead', 'failed', marked.reason,
         'a trigger of agent_messages puts the status back: let it pass what sessions with the setting postbell.broker = on write',
         now() + interval '30 seconds'
  from marked where is_kept
  on conflict (message_id, inbox) where message_id is not null do nothing
)
select case when count(*) < cardinality($1) then coalesce(array_agg(delivery_id), '{}') end as changed,
       case when (select count(*) from marked) < (select count(*) from those) then
         (select array_agg(message_id) from (select message_id from those except select message_id from marked) u)
       end as unmarked
from settled
