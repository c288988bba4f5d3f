-- Moves replies to processes that are not here to the lanes of their priorities. The new txid brings the row to the tail again.
-- Called by src/store/settle.rs. Uses the primary key (see settle_ack.sql; the sum keeps the planner from the lanes' index).
-- $1 deliveries bigint[]
-- $2 attempts smallint[]
-- $3 lanes smallint[]
with relaned as (
  update postbell.deliveries d set priority = a.lane, txid = pg_current_xact_id()
  from unnest($1::bigint[], $2::smallint[], $3::smallint[]) as a (delivery_id, attempt, lane)
  where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt and d.state <> 'dead' and d.due_at is null
    and d.priority + 0 = 0
  returning d.delivery_id
)
select null::uuid[] as unmarked,
       coalesce((select array_agg(delivery_id) from relaned), '{}') as changed
