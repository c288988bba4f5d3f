-- Expired before they were delivered: the deliveries go, a message to one inbox fails with the reason.
-- $1 delivery ids, $2 attempts. Called by src/postgres/settle.rs. Uses the primary keys (see
-- settle_ack.sql).
with settled as (
  delete from postbell.deliveries d
  using unnest($1::bigint[], $2::smallint[]) as a (delivery_id, attempt)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead'
  returning d.message_id
), marked as (
  update agent_messages m set status = 'failed', error_message = 'expired before it was delivered'
  from settled s
  where m.message_id = any (array[s.message_id]) and coalesce(m.to_agent_id, m.to_group) is not null
)
select count(*) from settled
