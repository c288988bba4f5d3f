-- Makes these scheduled deliveries ready as due_promote.sql does, after that statement was refused.
-- Called by src/store/due.rs. Uses deliveries' primary key.
-- $1 deliveries bigint[]
with due as (
  select delivery_id from postbell.deliveries
  where delivery_id = any ($1::bigint[]) and state = 'scheduled' and due_at <= now()
  for update skip locked
), promoted as (
  update postbell.deliveries d set state = 'ready', due_at = null, txid = pg_current_xact_id()
  from due where d.delivery_id = any (array[due.delivery_id])
  returning d.delivery_id
)
select (select count(*) from promoted) as promoted, (select pg_notify('postbell', '') where exists (select from promoted)) as rung
