-- Deletes dead letters for good. Their messages stay failed until retention; a broadcast is failed when the last of its
-- deliveries goes this way. The message is locked before its deliveries, as pollers do it, and a row that somebody holds is passed
-- over. Returns one row, as dead_redrive.sql does.
-- Called by src/store/dead/batch.rs. Uses deliveries_dead from the delivery on, or the primary key, deliveries_message, and the
-- primary key of agent_messages.
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
  select c.delivery_id
  from looked c
  left join lateral (
    select coalesce(m.to_agent_id, m.to_group) is null as is_broadcast from agent_messages m
    where m.message_id = any (array[c.message_id])
    offset 0
  ) kind on true
  left join lateral (
    select true as is_ours from agent_messages m where m.message_id = any (array[c.message_id]) and kind.is_broadcast
    for no key update skip locked
  ) lock on true
  cross join lateral (
    select from postbell.deliveries d
    where d.delivery_id = any (array[c.delivery_id]) and d.state::text = 'dead'
      and (lock.is_ours or kind.is_broadcast is not true)
    for update skip locked
  ) d
), purged as (
  delete from postbell.deliveries d using free f
  where d.delivery_id = any (array[f.delivery_id])
  returning d.delivery_id, d.message_id, d.last_error
), marked as (
  update agent_messages m
  set status = 'failed', error_message = p.last_error
  from (select distinct on (message_id) message_id, last_error from purged) p
  where m.message_id = any (array[p.message_id]) and coalesce(m.to_agent_id, m.to_group) is null and m.status is distinct from 'processed'
    and not exists (select from postbell.deliveries d
                    where d.message_id = p.message_id
                      and d.delivery_id not in (select delivery_id from purged)
                    offset 0)
)
select (select count(*) from purged) as n, (select max(delivery_id) from looked) as last,
       (select count(*) from looked) as looked, (select count(*) from looked) - (select count(*) from free) as held,
       '{}'::bigint[] as kept
