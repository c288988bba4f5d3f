-- Makes deliveries ready that were given back or failed, at once or after a delay. The new txid brings the row to the tail
-- again; a message marked delivered waits again. One row: the deliveries that were changed, null for all of them. Where another
-- broker owns an inbox by now, the bell is rung in the same transaction, if anybody sleeps.
-- The ring stands in settle_relane.sql and settle_each.sql too, since a function for all three would be a migration.
-- Called by src/store/settle.rs. Uses the primary keys and the locks as settle_ack.sql does.
-- $1 deliveries bigint[]
-- $2 attempts smallint[]
-- $3 added smallint[]: how many attempts to add; 0: given back
-- $4 delays_ms bigint[]
-- $5 reasons text[]
-- $6 broker uuid: this one
with those as materialized (
  select d.delivery_id, d.attempt, d.message_id, a.added, a.delay_ms, a.reason
  from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bigint[], $5::text[])
       as a (delivery_id, attempt, added, delay_ms, reason)
  cross join lateral (
    select * from postbell.deliveries w
    where w.delivery_id = any (array[a.delivery_id]) and w.attempt = a.attempt and w.state <> 'dead' and w.due_at is null
    offset 0
  ) d
), marked as (
  update agent_messages m set status = 'pending'
  from those t
  where m.message_id = any (array[t.message_id]) and coalesce(m.to_agent_id, m.to_group) is not null
    and m.status = 'delivered'
  returning 1
), settled as (
  update postbell.deliveries d
  set attempt = d.attempt + t.added,
      last_error = coalesce(t.reason, d.last_error),
      txid = pg_current_xact_id(),
      state = case when t.delay_ms > 0 then 'scheduled' else 'ready' end::postbell.delivery_state,
      due_at = case when t.delay_ms > 0 then now() + t.delay_ms * interval '1 millisecond' end
  from those t
  where d.delivery_id = any (array[t.delivery_id]) and d.attempt = t.attempt and d.state <> 'dead' and d.due_at is null
    and (select count(*) from marked) >= 0
  returning d.delivery_id, d.inbox
)
select case when count(*) < cardinality($1) then coalesce(array_agg(delivery_id), '{}') end as changed,
       null::uuid[] as unmarked,
       -- The owner's tail is another process's, which nobody wakes. Rows that this broker's own tail brings ring for nobody. The
       -- flag is read after the rows were changed, and so after this transaction has its id, as in triggers/route.sql.
       case when count(*) > 0 and pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
                 and pg_notification_queue_usage() < 0.9
            then (select pg_notify('postbell', '') where exists (
                    select from settled s
                    cross join lateral (
                      select from postbell.leases l where l.inbox = any (array[s.inbox]) and l.broker_id <> $6 offset 0
                    ) l))
       end as rung
from settled
