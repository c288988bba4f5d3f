-- The next deliveries of some lanes, oldest first, but only those the tail has brought already.
-- One element a lane: $1 inboxes, $2 priorities (0: the replies' lane), $3 ids to start above, $4 row counts, $5 the tail's snapshots as
-- text; $6 the most bytes a message may have; $7 where in $8 the ordering keys are that are left out (JSON objects), null:
-- none; $9 at how many rows of a lane it looks at most: the last of as many comes in any case and says where to go on
-- (`is_cut`). Called by src/postgres/refill.rs. Uses deliveries_lane from the id
-- on, so that neither the backlog nor the dead tuples before it are walked, and agent_messages' key.
-- A key that is left out costs a look at its rows, not at their messages, and none of what it has is read twice.
-- `offset 0` reads each snapshot once, not once a row.
select clock_timestamp() as clock, r.lane_no::int, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id, m.from_agent_id, m.message_type, m.created_at, m.expires_at, m.correlation_id, m.topic, t.headers,
       m.priority::int, m.to_group, m.to_instance, d.ordering_key,
       starts_with(d.last_error, 'the agent disconnected while it handled this and others') as in_company, d.n = $9::bigint as is_cut,
       case when octet_length(t.payload) + coalesce(octet_length(t.headers), 0) + coalesce(octet_length(m.from_agent_id), 0)
                 + coalesce(octet_length(m.correlation_id), 0) + coalesce(octet_length(m.topic), 0)
                 + coalesce(octet_length(m.to_group), 0) <= $6::int then t.payload end as payload
from (
  select inbox, priority, above, row_count, seen::pg_snapshot as seen, (($8::text[])[passed_no])::jsonb as passed, lane_no
  from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $7::int[])
       with ordinality as a (inbox, priority, above, row_count, seen, passed_no, lane_no)
  offset 0
) r
cross join lateral (
  select *
  from (select *, row_number() over () as n from (
  select * from postbell.deliveries w
  -- The array keeps the inbox a part of the order, which the primary key cannot give: also a plan made while the table
  -- was empty leaves it alone.
  where w.inbox = any (array[r.inbox]) and w.priority = r.priority and w.state = 'ready' and w.delivery_id > r.above
    and pg_visible_in_snapshot(w.txid, r.seen)
  order by w.inbox, w.delivery_id
  limit $9::bigint
  ) w) s
  where r.passed is null or s.ordering_key is null or not r.passed ? s.ordering_key or s.n = $9::bigint
  limit r.row_count
) d
-- `offset 0`: a plan made while the tables were empty could begin at the messages, all of them.
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
cross join lateral (select m.payload::text as payload, m.headers::text as headers offset 0) t
order by r.lane_no, d.delivery_id
