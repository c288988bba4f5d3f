-- Dead letters. $1 delivery ids, $2 attempts, $3 how many attempts to add, $4 reasons. Called by
-- src/postgres/settle.rs. Uses the primary keys (see settle_ack.sql). A broadcast fails only in this
-- recipient's delivery.
with settled as (
  update postbell.deliveries d
  set state = 'dead', dead_at = now(), due_at = null, attempt = d.attempt + a.added, last_error = a.reason
  from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::text[])
       as a (delivery_id, attempt, added, reason)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead'
  returning d.message_id, d.last_error
), marked as (
  update agent_messages m set status = 'failed', error_message = s.last_error
  from settled s
  where m.message_id = any (array[s.message_id]) and coalesce(m.to_agent_id, m.to_group) is not null
)
select count(*) from settled
