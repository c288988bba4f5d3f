-- The next deliveries of some lanes, oldest first, but only those the tail has brought already.
-- One element a lane: $1 inboxes, $2 priorities (0: the replies' lane), $3 ids to start above, $4 row counts, $5 the tail's snapshots as
-- text; $6 the most bytes a message may have. Called by src/postgres/refill.rs. Uses deliveries_lane from the id
-- on, so that neither the backlog nor the dead tuples before it are walked, and agent_messages' key.
-- `offset 0` reads each snapshot once, not once a row.
select clock_timestamp() as clock, r.lane_no::int, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id, m.from_agent_id, m.message_type, m.created_at, m.expires_at, m.correlation_id, m.topic, t.headers,
       m.priority::int, m.to_group, m.to_instance, m.ordering_key,
       case when octet_length(t.payload) + coalesce(octet_length(t.headers), 0) + coalesce(octet_length(m.from_agent_id), 0)
                 + coalesce(octet_length(m.correlation_id), 0) + coalesce(octet_length(m.topic), 0)
                 + coalesce(octet_length(m.to_group), 0) <= $6::int then t.payload end as payload
from (
  select inbox, priority, above, row_count, seen::pg_snapshot as seen, lane_no
  from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[])
       with ordinality as a (inbox, priority, above, row_count, seen, lane_no)
  offset 0
) r
cross join lateral (
  select * from postbell.deliveries w
  -- The array keeps the inbox a part of the order, which the primary key cannot give: also a plan made while the table
  -- was empty leaves it alone.
  where w.inbox = any (array[r.inbox]) and w.priority = r.priority and w.state = 'ready' and w.delivery_id > r.above
    and pg_visible_in_snapshot(w.txid, r.seen)
  order by w.inbox, w.delivery_id
  limit r.row_count
) d
-- `offset 0`: a plan made while the tables were empty could begin at the messages, all of them.
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
cross join lateral (select m.payload::text as payload, m.headers::text as headers offset 0) t
order by r.lane_no, d.delivery_id
