-- Dead letters are ready again, as if new: $1 these deliveries (null: all of the inbox), $2 of this inbox (null: of any,
-- where deliveries are named), after delivery $3, at most $4. Setting txid puts them before the tail; the bell is
-- always rung, in the same transaction, since the inbox's owner may be another process. Returns how many and the last of
-- them. Called by src/store/dead.rs. Uses deliveries_dead from the delivery on, or the primary key.
with of_inbox as (
  -- The array keeps the inbox a part of the order, which the primary key cannot give.
  select delivery_id from postbell.deliveries
  where state = 'dead' and inbox = any (array[$2::text]) and delivery_id > $3::bigint and $1::bigint[] is null
  order by inbox, delivery_id
  limit $4::bigint
  for update
), named as (
  -- As text the state does not lead to deliveries_dead, to walk all of it.
  select delivery_id from postbell.deliveries
  where delivery_id = any ($1) and delivery_id > $3 and state::text = 'dead' and ($2 is null or inbox = $2)
  order by delivery_id
  limit $4
  for update
), chosen as (
  select delivery_id from of_inbox union all select delivery_id from named
), redriven as (
  update postbell.deliveries d
  set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
  from chosen c
  where d.delivery_id = any (array[c.delivery_id])
  returning d.delivery_id, d.message_id
), marked as (
  update agent_messages m
  set status = 'pending', processed_at = null, error_message = null
  from (select distinct message_id from redriven) r
  where m.message_id = any (array[r.message_id])
)
select count(*) as n, max(delivery_id) as last, pg_notify('postbell', '') from redriven
