-- Writes outcomes one by one, after a statement for all was refused. See sql/migrations/0016_set_aside.sql.
-- The bell is rung as settle_retry.sql rings it.
-- Called by src/store/settle.rs. Uses the primary keys.
-- $1 kinds text[]: ack, retry, dead, expired
-- $2 deliveries bigint[]
-- $3 attempts smallint[]
-- $4 added smallint[]: how many attempts to add
-- $5 delays_ms bigint[]
-- $6 reasons text[]
-- $7 time_ms integer: how long the user's rows are tried
-- $8 untried_reason text: of outcomes that are set aside untried
-- $9 broker uuid: this one
with each as materialized (
  select delivery_id, became, why
  from postbell.settle_each($1::text[], $2::bigint[], $3::smallint[], $4::smallint[], $5::bigint[], $6::text[], $7::integer,
                            $8::text)
)
select delivery_id, became, why,
       case when 'retry' = any ($1) and became in ('written', 'aside')
                 and pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
                 and pg_notification_queue_usage() < 0.9
            then (select pg_notify('postbell', '') where exists (
                    select from each e
                    cross join lateral (
                      select w.inbox from postbell.deliveries w where w.delivery_id = any (array[e.delivery_id]) offset 0
                    ) d
                    cross join lateral (
                      select from postbell.leases l where l.inbox = any (array[d.inbox]) and l.broker_id <> $9 offset 0
                    ) l
                    where e.became in ('written', 'aside')))
       end as rung
from each
