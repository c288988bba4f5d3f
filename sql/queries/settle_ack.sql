-- Acknowledged: the deliveries go, their messages are processed. $1 delivery ids, $2 attempts: one that does
-- not match was settled before, or is another attempt's. Called by src/postgres/settle.rs. Uses the primary
-- keys; deliveries_message for a broadcast, which is processed when its last delivery is settled.
with settled as (
  delete from postbell.deliveries d
  using unnest($1::bigint[], $2::smallint[]) as a (delivery_id, attempt)
  where d.delivery_id = a.delivery_id and d.attempt = a.attempt and d.state <> 'dead'
  returning d.delivery_id, d.message_id
), marked as (
  update agent_messages m
  set status = 'processed', processed_at = now(), delivered_at = coalesce(m.delivered_at, now())
  from settled s
  where m.message_id = s.message_id
    and (m.to_agent_id is not null
         or not exists (select from postbell.deliveries o
                        where o.message_id = m.message_id
                          and not o.delivery_id = any ((select array_agg(delivery_id) from settled)::bigint[])))
)
select count(*) from settled
