-- Makes dead letters ready whose messages wait again, as dead_redrive.sql does. Returns one row: those whose messages do not wait,
-- since a rule or a trigger keeps them as they were.
-- Called by src/store/dead/ruled.rs. Uses the primary keys.
-- $1 deliveries bigint[]
with redriven as (
  update postbell.deliveries d
  set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
  where d.delivery_id = any ($1::bigint[])
    and exists (select from agent_messages m where m.message_id = any (array[d.message_id]) and m.status = 'pending' offset 0)
  returning d.delivery_id
)
select array(select unnest($1) except select delivery_id from redriven order by 1) as kept, pg_notify('postbell', '')
