-- Makes scheduled deliveries ready whose time has come; says how many, and in how many milliseconds the next is due. The bell is
-- rung, in the same transaction, since the inbox's owner may be another process.
-- Called by src/store/due.rs, every two seconds unless the broker is at rest, and at the time it said. Uses deliveries_due; now() and not clock_timestamp(), which
-- no index is searched by.
-- $1 rows_max bigint
-- $2 left_out bigint[]: deliveries that took no change a moment ago
with due as (
  select delivery_id from postbell.deliveries
  where state = 'scheduled' and due_at <= now() and delivery_id <> all ($2::bigint[])
  order by due_at limit $1::bigint
  for update skip locked
), promoted as (
  update postbell.deliveries d set state = 'ready', due_at = null, txid = pg_current_xact_id()
  from due where d.delivery_id = any (array[due.delivery_id])
  returning d.delivery_id
)
select (select count(*) from promoted) as promoted, (select pg_notify('postbell', '') where exists (select from promoted)) as rung,
       (select ceil(extract(epoch from min(due_at) - now()) * 1000)::bigint
        from postbell.deliveries
        -- One that is due at infinity waits for ever, and says nothing of the others.
        where state = 'scheduled' and due_at > now() and due_at < 'infinity') as next_ms
