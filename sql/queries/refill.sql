-- The next deliveries of some lanes, oldest first, but only those the tail has brought already.
-- One element a lane: $1 inboxes, $2 priorities (0: the replies' lane), $3 ids to start above, $4 row counts, $5 the tail's snapshots as
-- text; $6 the most bytes that a payload and headers may each have, stored and unpacked, to be made text here; $7 the most
-- bytes of a message's names. `stored` and a payload that is null: see tail.sql. Called by src/postgres/refill.rs. Uses
-- deliveries_lane from the id on, so that neither the backlog nor the dead tuples before it are walked, and agent_messages' key.
-- `offset 0` reads each snapshot once, not once a row.
select clock_timestamp() as clock, r.lane_no::int, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id,
       case when t.stored is not null then m.from_agent_id end as from_agent_id, case when t.stored is not null then m.message_type end as message_type,
       m.created_at, m.expires_at, case when t.stored is not null then m.correlation_id end as correlation_id,
       case when t.stored is not null then m.topic end as topic, t.headers, m.priority::int,
       case when t.stored is not null then m.to_group end as to_group, case when t.stored is not null then m.to_instance end as to_instance,
       case when t.stored is not null then m.ordering_key end as ordering_key, t.payload, t.stored
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
cross join lateral (
  select case when coalesce(octet_length(m.from_agent_id), 0) + coalesce(octet_length(m.message_type), 0)
                   + coalesce(octet_length(m.correlation_id), 0) + coalesce(octet_length(m.topic), 0)
                   + coalesce(octet_length(m.to_group), 0) + coalesce(octet_length(m.to_instance), 0)
                   + coalesce(octet_length(m.ordering_key), 0) <= $7::int
              then coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0) end as stored,
         case when pg_column_size(m.payload) <= $6::int and pg_column_size(m.payload #> '{}') <= $6
                   and (m.headers is null
                        or pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6)
              then m.payload::text end as payload,
         case when pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6
              then m.headers::text end as headers
  offset 0
) t
order by r.lane_no, d.delivery_id
