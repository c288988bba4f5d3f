-- The next deliveries of some ordering keys, oldest first, whatever their priorities, but only those the tail has brought
-- already. One element a key: $1 inboxes, $2 keys, $3 ids to start above, $4 row counts, $5 the tail's snapshots as text; $6
-- the most bytes a message may have. Called by src/postgres/refill.rs. Uses deliveries_key from the id on, and
-- agent_messages' key. Replies (priority 0) wait for no other of their key. See refill.sql for the forms.
select clock_timestamp() as clock, r.key_no::int as lane_no, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id, m.from_agent_id, m.message_type, m.created_at, m.expires_at, m.correlation_id, m.topic, t.headers,
       m.priority::int, m.to_group, m.to_instance, d.ordering_key,
       starts_with(d.last_error, 'the agent disconnected while it handled this and others') as in_company, false as is_cut,
       case when octet_length(t.payload) + coalesce(octet_length(t.headers), 0) + coalesce(octet_length(m.from_agent_id), 0)
                 + coalesce(octet_length(m.correlation_id), 0) + coalesce(octet_length(m.topic), 0)
                 + coalesce(octet_length(m.to_group), 0) <= $6::int then t.payload end as payload
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
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
cross join lateral (select m.payload::text as payload, m.headers::text as headers offset 0) t
order by r.key_no, d.delivery_id
