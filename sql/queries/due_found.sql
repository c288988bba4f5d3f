-- The scheduled deliveries whose time has come, after due_promote.sql was refused.
-- Called by src/store/due.rs. Uses deliveries_due.
-- $1 rows_max bigint
-- $2 left_out bigint[]: deliveries that took no change a moment ago
select coalesce(array_agg(delivery_id), '{}') as due
from (
  select delivery_id from postbell.deliveries
  where state = 'scheduled' and due_at <= now() and delivery_id <> all ($2::bigint[])
  order by due_at limit $1::bigint
) d
