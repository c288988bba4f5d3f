-- The next deliveries of some lanes, oldest first, but only those the tail has brought already. Each array but $9 has one
-- element a lane. `stored`, and a payload that is null: see tail.sql. `is_cut`: the lane was looked at no further, and this row
-- says where to go on.
-- A delivery whose key is left out costs a look at its own row, not at its message, and none of it is read twice. `offset 0`
-- reads each snapshot once, not once a row.
-- Called by src/store/refill.rs. Uses deliveries_lane from the id on, so that neither the backlog nor the dead tuples before it
-- are walked, and agent_messages' primary key.
-- $1 inboxes text[]
-- $2 priorities smallint[]: 0: the replies' lane
-- $3 above bigint[]: the deliveries to start above
-- $4 row_counts bigint[]
-- $5 snapshots text[]: the tail's, as text
-- $6 bytes_max integer: of a payload, and of headers, stored and unpacked, to be made text here
-- $7 names_bytes_max integer: of a message's names
-- $8 passed integer[]: where in $9 the ordering keys of a lane are that are left out; null: none
-- $9 passed_keys text[]: JSON objects with those keys
-- $10 looked_max bigint: rows of a lane to look at; the last of as many comes in any case
-- $11 unreadable uuid[]: messages of which nothing is read
select clock_timestamp() as clock, r.lane_no::int, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id,
       case when t.stored is not null then m.from_agent_id::text end as from_agent_id, case when t.stored is not null then m.message_type::text end as message_type,
       m.created_at, m.expires_at, case when t.stored is not null then m.correlation_id::text end as correlation_id,
       case when t.stored is not null then m.topic::text end as topic, t.headers, m.priority::int,
       case when t.stored is not null then m.to_group::text end as to_group, case when t.stored is not null then m.to_instance::text end as to_instance,
       d.ordering_key, starts_with(d.last_error, 'the agent disconnected while it handled this and others') as in_company,
       d.n = $10::bigint as is_cut, t.payload, t.stored, m.message_id is null as unseen
from (
  select inbox, priority, above, row_count, seen::pg_snapshot as seen, (($9::text[])[passed_no])::jsonb as passed, lane_no
  from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $8::int[])
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
  limit $10::bigint
  ) w) s
  where r.passed is null or s.ordering_key is null or not r.passed ? s.ordering_key or s.n = $10::bigint
  limit r.row_count
) d
-- `offset 0`: a plan made while the tables were empty could begin at the messages, all of them.
left join lateral (select * from agent_messages m where m.message_id = d.message_id and d.message_id <> all ($11::uuid[]) offset 0) m
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
order by r.lane_no, d.delivery_id
