-- Payloads and headers of messages as text, in the order that was asked for, where both together are small enough. Nothing is
-- made text before its cost is known to be bounded: `stored` takes no reading at all; `raw` unpacks (JSON text is a quarter of
-- its raw size at least); `digits` is, to within a factor of two, the length of numbers longer than 16 digits: 1e131071 is stored
-- in 10 bytes. A message beyond that has no payload here, and the figure that says so.
-- Called by src/store/payload.rs. Uses agent_messages' primary key.
-- $1 messages uuid[]
-- $2 bytes_max integer: of payload and headers together
select k.message_id, s.stored, r.raw, g.digits, octet_length(t.payload) + coalesce(octet_length(t.headers), 0) as bytes,
       case when octet_length(t.payload) + coalesce(octet_length(t.headers), 0) <= $2 then t.payload end as payload,
       case when octet_length(t.payload) + coalesce(octet_length(t.headers), 0) <= $2 then t.headers end as headers
from unnest($1::uuid[]) with ordinality as k (message_id, place)
cross join lateral (
  select m.payload, m.headers, coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0) as stored
  from agent_messages m where m.message_id = k.message_id offset 0
) s
cross join lateral (
  select case when s.stored <= 5 * $2::int
              then coalesce(pg_column_size(s.payload #> '{}'), 0) + coalesce(pg_column_size(s.headers #> '{}'), 0) end as raw
  offset 0
) r
cross join lateral (
  select case when r.raw <= 5 * $2::int then (
    select coalesce(sum(greatest(scale(n.number) - 16, 0)
                        + case when abs(n.number) < 1e16 then 0
                               else 16 << width_bucket(abs(n.number), '{1e16,1e32,1e64,1e128,1e256,1e512,1e1024,1e2048,1e4096,1e8192,1e16384,1e32768,1e65536}'::numeric[])
                          end), 0)
    from (values (s.payload), (s.headers)) p (part)
    cross join lateral jsonb_array_elements(jsonb_path_query_array(p.part, 'strict $.** ? (@.type() == "number")')) e
    cross join lateral (select e.value::numeric as number offset 0) n
  ) end as digits
  offset 0
) g
cross join lateral (
  select coalesce(s.payload::text, 'null') as payload, s.headers::text as headers where g.digits <= 2 * $2::int
  union all
  select null, null where (g.digits <= 2 * $2::int) is not true
) t
order by k.place
