-- Makes dead letters ready again, as if new. The new txid puts them before the tail. The bell is always rung, in the same
-- transaction, since the inbox's owner may be another process. The message is locked before its delivery, as pollers do it, and a
-- row that somebody holds is passed over. Returns one row: how many are ready, the last that was looked at, how many were, how many
-- somebody holds, and those whose message a trigger keeps as it was.
-- Called by src/store/dead/batch.rs. Uses deliveries_dead from the delivery on, or the primary key, and that of agent_messages.
-- $1 deliveries bigint[]: only these; null for all of the inbox
-- $2 inbox text: only of this one; null for any, where deliveries are named
-- $3 after bigint
-- $4 rows_max bigint
with of_inbox as (
  -- The array keeps the inbox a part of the order, which the primary key cannot give.
  select delivery_id, message_id from postbell.deliveries
  where state = 'dead' and inbox = any (array[$2::text]) and delivery_id > $3::bigint and $1::bigint[] is null
  order by inbox, delivery_id
  limit $4::bigint
), named as (
  -- As text the state does not lead to deliveries_dead, to walk all of it.
  select delivery_id, message_id from postbell.deliveries
  where delivery_id = any ($1) and delivery_id > $3 and state::text = 'dead' and ($2 is null or inbox = $2)
  order by delivery_id
  limit $4
), looked as materialized (
  select delivery_id, message_id from of_inbox union all select delivery_id, message_id from named
), free as materialized (
  select c.delivery_id, c.message_id
  from looked c
  cross join lateral (
    select m.message_id from agent_messages m where m.message_id = any (array[c.message_id])
    for no key update skip locked
  ) m
  cross join lateral (
    select from postbell.deliveries d
    where d.delivery_id = any (array[c.delivery_id]) and d.message_id = m.message_id and d.state::text = 'dead'
    for update skip locked
  ) d
), marked as (
  update agent_messages m
  set status = 'pending', processed_at = null, error_message = null
  from (select distinct message_id from free) f
  where m.message_id = any (array[f.message_id])
  returning m.message_id
), redriven as (
  update postbell.deliveries d
  set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
  from free f
  where d.delivery_id = any (array[f.delivery_id])
    -- `is true` keeps it a list that is looked up, not a join that compares each with each.
    and (f.message_id in (select message_id from marked)) is true
  returning d.delivery_id
)
select (select count(*) from redriven) as n, (select max(delivery_id) from looked) as last,
       (select count(*) from looked) as looked, (select count(*) from looked) - (select count(*) from free) as held,
       array(select delivery_id from free where (delivery_id in (select delivery_id from redriven)) is not true) as kept,
       pg_notify('postbell', '')
