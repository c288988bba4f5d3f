-- Locks dead letters that are free, until the transaction ends: the first step of redriving and purging where a user's rule is on
-- agent_messages, which takes no UPDATE inside another statement. Returns one row: those that are free, the last that was looked
-- at, and how many were.
-- Called by src/store/dead/ruled.rs. Uses deliveries_dead from the delivery on, or the primary key, and that of agent_messages.
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
)
select array(select delivery_id from free) as free, (select max(delivery_id) from looked) as last,
       (select count(*) from looked) as looked
