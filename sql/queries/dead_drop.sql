-- Deletes dead letters for good, before dead_failed.sql. Returns one row: their messages and reasons.
-- Called by src/store/dead/ruled.rs. Uses the primary key.
-- $1 deliveries bigint[]
with purged as (
  delete from postbell.deliveries d where d.delivery_id = any ($1::bigint[])
  returning d.message_id, d.last_error
), once as (
  select distinct on (message_id) message_id, last_error from purged
)
select coalesce(array_agg(message_id), '{}') as messages, coalesce(array_agg(last_error), '{}') as reasons from once
