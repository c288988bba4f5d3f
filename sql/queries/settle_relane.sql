-- Moves replies to processes that are not here to the lanes of their priorities. The new txid brings the row to the tail again.
-- The bell is rung as settle_retry.sql rings it.
-- Called by src/store/settle.rs. Uses the primary keys (see settle_ack.sql; the sum keeps the planner from the lanes' index).
-- $1 deliveries bigint[]
-- $2 attempts smallint[]
-- $3 lanes smallint[]
-- $4 broker uuid: this one
with relaned as (
  update postbell.deliveries d set priority = a.lane, txid = pg_current_xact_id()
  from unnest($1::bigint[], $2::smallint[], $3::smallint[]) as a (delivery_id, attempt, lane)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead' and d.due_at is null
    and d.priority + 0 = 0
  returning d.delivery_id, d.inbox
)
select null::uuid[] as unmarked, coalesce(array_agg(delivery_id), '{}') as changed,
       case when count(*) > 0 and pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
                 and pg_notification_queue_usage() < 0.9
            then (select pg_notify('postbell', '') where exists (
                    select from relaned s
                    cross join lateral (
                      select from postbell.leases l where l.inbox = any (array[s.inbox]) and l.broker_id <> $4 offset 0
                    ) l))
       end as rung
from relaned
