-- Given back or failed: ready again, at once or after a delay. $1 delivery ids, $2 attempts, $3 how many attempts
-- to add (0: given back), $4 delays in milliseconds, $5 reasons. Called by src/postgres/settle.rs. Uses the
-- primary keys (see settle_ack.sql). The new txid brings the row to the tail again; a message marked
-- delivered waits again.
with settled as (
  update postbell.deliveries d
  set attempt = d.attempt + a.added,
      last_error = coalesce(a.reason, d.last_error),
      txid = pg_current_xact_id(),
      state = case when a.delay_ms > 0 then 'scheduled' else 'ready' end::postbell.delivery_state,
      due_at = case when a.delay_ms > 0 then now() + a.delay_ms * interval '1 millisecond' end
  from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bigint[], $5::text[])
       as a (delivery_id, attempt, added, delay_ms, reason)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead' and d.due_at is null
  returning d.message_id
), marked as (
  update agent_messages m set status = 'pending'
  from settled s
  where m.message_id = any (array[s.message_id]) and coalesce(m.to_agent_id, m.to_group) is not null and m.status = 'delivered'
)
select count(*) from settled
