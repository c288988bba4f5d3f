-- Dead letters are ready again, as if new: $1 these deliveries (null: any), $2 of this inbox (null: any), after
-- delivery $3, at most $4. Setting txid puts them before the tail; the bell is always rung, in the same transaction,
-- since this runs in another process than the broker's. Returns how many and the last of them. Called by
-- src/postgres/dead.rs. Uses deliveries_dead, or the primary key.
with chosen as (
  select delivery_id from postbell.deliveries
  where state = 'dead'
    and ($1::bigint[] is null or delivery_id = any ($1))
    and ($2::text is null or inbox = $2)
    and delivery_id > $3::bigint
  order by delivery_id
  limit $4::bigint
  for update
), redriven as (
  update postbell.deliveries d
  set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
  from chosen c
  where d.delivery_id = c.delivery_id
  returning d.delivery_id, d.message_id
), marked as (
  update agent_messages m
  set status = 'pending', processed_at = null, error_message = null
  from (select distinct message_id from redriven) r
  where m.message_id = r.message_id
)
select count(*) as n, max(delivery_id) as last, pg_notify('postbell', '') from redriven
