-- Dead letters go for good: $1 these deliveries (null: any), $2 of this inbox (null: any), after delivery $3, at
-- most $4. Their messages stay failed until retention; a broadcast is failed when the last of its deliveries goes
-- this way. Returns how many and the last of them. Called by src/postgres/dead.rs. Uses
-- deliveries_dead, or the primary key, and deliveries_message.
with chosen as (
  select delivery_id from postbell.deliveries
  where state = 'dead'
    and ($1::bigint[] is null or delivery_id = any ($1))
    and ($2::text is null or inbox = $2)
    and delivery_id > $3::bigint
  order by delivery_id
  limit $4::bigint
  for update
), purged as (
  delete from postbell.deliveries d using chosen c
  where d.delivery_id = c.delivery_id
  returning d.delivery_id, d.message_id, d.last_error
), marked as (
  update agent_messages m
  set status = 'failed', error_message = p.last_error
  from (select distinct on (message_id) message_id, last_error from purged) p
  where m.message_id = p.message_id and m.to_agent_id is null and m.status is distinct from 'processed'
    and not exists (select from postbell.deliveries d
                    where d.message_id = p.message_id
                      and d.delivery_id not in (select delivery_id from purged))
)
select count(*) as n, max(delivery_id) as last from purged
