-- Does the same as reap_processed.sql in a part of the table, from one place to before another. The place of a row is compared
-- before a policy of the user's is asked about the row: that comparison is cheap and leaks nothing.
-- A table with a rule takes no WITH, so there is none.
-- Called by src/store/reap/older.rs, after a row held up the others. Uses the index on created_at and deliveries_message.
-- $1 kept_seconds bigint
-- $2 rows_max bigint
-- $3 from text: a ctid
-- $4 to text: a ctid
delete from agent_messages
where message_id = any (array(
  select m.message_id from agent_messages m
  where m.created_at < now() - $1::bigint * interval '1 second'
    and m.ctid >= $3::text::tid and m.ctid < $4::text::tid
    and m.status in ('processed', 'failed')
    and coalesce(m.processed_at, m.created_at) < now() - $1::bigint * interval '1 second'
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
  order by m.created_at limit $2::bigint
  for update skip locked))
