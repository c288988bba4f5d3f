-- The tail: every delivery that a transaction made ready since the last round, each exactly once. The first row carries the
-- snapshot (one statement has one), the clock that the ages are taken by, and how many deliveries the mesh ever made.
-- `in_company`: crates/engine/src/inbox/dispatcher/blame.rs begins the reason by these words. `stored` is the size of payload and
-- headers in the table, which costs nothing to know; it is null where the names are too long, which are left out then. A payload
-- that is null is left to a refill, which reads it beside the others (payload.sql). `unseen`: the delivery is there, and its
-- message cannot be seen; the row comes all the same, since nothing else would look again. `#> '{}'` is the payload itself, unpacked.
-- Called by src/store/tail.rs. Uses deliveries_tail (twice), the primary keys of leases and agent_messages. `offset 0` keeps the
-- planner from starting at the inboxes or the messages, and `is true` from the index of this broker's leases: the cost must be
-- the new rows, never the backlog, never the number of agents.
-- $1 xmax text: of the last snapshot, as text
-- $2 in_progress text[]: that snapshot's transactions in progress, as text
-- $3 broker uuid
-- $4 bytes_max integer: of a payload with its headers, stored and unpacked, to be made text here
-- $5 names_bytes_max integer: of a message's names
-- $6 unreadable uuid[]: messages of which nothing is read; null: all are unreadable
select pg_current_snapshot()::text as snapshot, clock_timestamp() as clock,
       pg_sequence_last_value(to_regclass('postbell.deliveries_delivery_id_seq')) as made,
       null::bigint as delivery_id, null::text as inbox, null::smallint as lane, null::smallint as attempt,
       null::timestamptz as due_at, null::uuid as message_id, null::text as from_agent_id,
       null::text as message_type, null::timestamptz as created_at, null::timestamptz as expires_at,
       null::text as correlation_id, null::text as topic, null::text as headers, null::int as priority,
       null::text as to_group, null::text as to_instance, null::text as ordering_key, null::bool as in_company,
       null::text as payload, null::int as stored, null::bool as unseen
union all
select null, null, null, d.delivery_id, d.inbox, d.priority, d.attempt, d.due_at, d.message_id,
       case when t.stored is not null then m.from_agent_id::text end, case when t.stored is not null then m.message_type::text end,
       m.created_at, m.expires_at, case when t.stored is not null then m.correlation_id::text end,
       case when t.stored is not null then m.topic::text end, t.headers, m.priority::int,
       case when t.stored is not null then m.to_group::text end, case when t.stored is not null then m.to_instance::text end,
       d.ordering_key, starts_with(d.last_error, 'the agent disconnected while it handled this and others'), t.payload, t.stored,
       m.message_id is null as unseen
from (
  select delivery_id, inbox, priority, attempt, due_at, message_id, ordering_key, last_error from postbell.deliveries
  where dead_at is null and txid >= $1::text::xid8
  union all
  select delivery_id, inbox, priority, attempt, due_at, message_id, ordering_key, last_error from postbell.deliveries
  where dead_at is null and txid = any ($2::text[]::xid8[])
  offset 0
) d
cross join lateral (select from postbell.leases l where l.inbox = d.inbox and (l.broker_id = $3) is true offset 0) l
left join lateral (select * from agent_messages m where m.message_id = d.message_id and d.message_id <> all ($6::uuid[]) offset 0) m
  on true
cross join lateral (
  select case when coalesce(octet_length(m.from_agent_id::text), 0) + coalesce(octet_length(m.message_type::text), 0)
                   + coalesce(octet_length(m.correlation_id::text), 0) + coalesce(octet_length(m.topic::text), 0)
                   + coalesce(octet_length(m.to_group::text), 0) + coalesce(octet_length(m.to_instance::text), 0) <= $5::int
              then coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0) end as stored,
         case when pg_column_size(m.payload) <= $4::int and pg_column_size(m.payload #> '{}') <= $4
                   and (m.headers is null
                        or pg_column_size(m.headers) <= $4 and pg_column_size(m.headers #> '{}') <= $4)
              then m.payload::text end as payload,
         case when pg_column_size(m.headers) <= $4 and pg_column_size(m.headers #> '{}') <= $4
              then m.headers::text end as headers
  offset 0
) t
