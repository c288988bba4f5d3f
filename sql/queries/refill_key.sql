-- The next deliveries of some ordering keys, oldest first, whatever their priorities, but only those the tail has brought
-- already. Each array has one element a key. Replies (priority 0) wait for no other of their key. See refill.sql for the forms.
-- Called by src/store/refill.rs. Uses deliveries_key from the id on, and agent_messages' primary key.
-- $1 inboxes text[]
-- $2 keys text[]
-- $3 above bigint[]: the deliveries to start above
-- $4 row_counts bigint[]
-- $5 snapshots text[]: the tail's, as text
-- $6 bytes_max integer: as in refill.sql
-- $7 names_bytes_max integer: as in refill.sql
-- $8 unreadable uuid[]: as in refill.sql
select clock_timestamp() as clock, r.key_no::int as lane_no, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id,
       case when t.stored is not null then m.from_agent_id::text end as from_agent_id, case when t.stored is not null then m.message_type::text end as message_type,
       m.created_at, m.expires_at, case when t.stored is not null then m.correlation_id::text end as correlation_id,
       case when t.stored is not null then m.topic::text end as topic, t.headers, m.priority::int,
       case when t.stored is not null then m.to_group::text end as to_group, case when t.stored is not null then m.to_instance::text end as to_instance,
       d.ordering_key, starts_with(d.last_error, 'the agent disconnected while it handled this and others') as in_company,
       false as is_cut, t.payload, t.stored, m.message_id is null as unseen
from (
  select inbox, key, above, row_count, seen::pg_snapshot as seen, key_no
  from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
       with ordinality as a (inbox, key, above, row_count, seen, key_no)
  offset 0
) r
cross join lateral (
  select * from postbell.deliveries w
  where w.inbox = any (array[r.inbox]) and w.ordering_key = any (array[r.key]) and w.ordering_key is not null
    and w.state = 'ready' and w.delivery_id > r.above and w.priority > 0 and pg_visible_in_snapshot(w.txid, r.seen)
  order by w.inbox, w.ordering_key, w.delivery_id
  limit r.row_count
) d
left join lateral (select * from agent_messages m where m.message_id = d.message_id and d.message_id <> all ($8::uuid[]) offset 0) m
  on true
cross join lateral (
  select case when coalesce(octet_length(m.from_agent_id::text), 0) + coalesce(octet_length(m.message_type::text), 0)
                   + coalesce(octet_length(m.correlation_id::text), 0) + coalesce(octet_length(m.topic::text), 0)
                   + coalesce(octet_length(m.to_group::text), 0) + coalesce(octet_length(m.to_instance::text), 0) <= $7::int
              then coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0) end as stored,
         case when pg_column_size(m.payload) <= $6::int and pg_column_size(m.payload #> '{}') <= $6
                   and (m.headers is null
                        or pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6)
              then m.payload::text end as payload,
         case when pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6
              then m.headers::text end as headers
  offset 0
) t
order by r.key_no, d.delivery_id
