-- The next deliveries of some lanes, oldest first, but only those the tail has brought already.
-- One element a lane: $1 inboxes, $2 priorities (0: the replies' lane), $3 ids to start above, $4 row counts, $5 the tail's snapshots as
-- text; $6 the most bytes that a payload and headers may each have, stored and unpacked, to be made text here; $7 the most
-- bytes of a message's names; $8 where in $9 the ordering keys are that are left out (JSON objects), null: none; $10 at how many
-- rows of a lane it looks at most: the last of as many comes in any case and says where to go on (`is_cut`); $11 messages that
-- cannot be read. That, `stored` and a payload that is null: see tail.sql. Called by src/store/refill.rs. Uses
-- deliveries_lane from the id on, so that neither the backlog nor the dead tuples before it are walked, and agent_messages' key.
-- A key that is left out costs a look at its rows, not at their messages, and none of what it has is read twice.
-- `offset 0` reads each snapshot once, not once a row.
select clock_timestamp() as clock, r.lane_no::int, d.delivery_id, d.inbox, d.priority as lane, d.attempt, d.due_at,
       d.message_id,
       case when t.stored is not null then m.from_agent_id end as from_agent_id, case when t.stored is not null then m.message_type end as message_type,
       m.created_at, m.expires_at, case when t.stored is not null then m.correlation_id end as correlation_id,
       case when t.stored is not null then m.topic end as topic, t.headers, m.priority::int,
       case when t.stored is not null then m.to_group end as to_group, case when t.stored is not null then m.to_instance end as to_instance,
       d.ordering_key, starts_with(d.last_error, 'the agent disconnected while it handled this and others') as in_company,
       d.n = $10::bigint as is_cut, t.payload, t.stored
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
  select case when coalesce(octet_length(m.from_agent_id), 0) + coalesce(octet_length(m.message_type), 0)
                   + coalesce(octet_length(m.correlation_id), 0) + coalesce(octet_length(m.topic), 0)
                   + coalesce(octet_length(m.to_group), 0) + coalesce(octet_length(m.to_instance), 0) <= $7::int
              then coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0) end as stored,
         case when pg_column_size(m.payload) <= $6::int and pg_column_size(m.payload #> '{}') <= $6
                   and (m.headers is null
                        or pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6)
              then m.payload::text end as payload,
         case when pg_column_size(m.headers) <= $6 and pg_column_size(m.headers #> '{}') <= $6
              then m.headers::text end as headers
  offset 0
) t
where m.message_id is not null or d.message_id = any ($11) or $11 is null
order by r.lane_no, d.delivery_id
