-- Inserts the demo's messages, as any SQL client may. clock_timestamp() and not now(), so that the latency shown begins at the
-- row and not at BEGIN.
-- Called by src/cli/demo.rs. Uses no index.
-- $1 first integer: the first number
-- $2 count integer
-- $3 from_agent text
-- $4 to_agent text
insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, created_at)
select 'demo-sql', case when n % 2 = 0 then $3::text else $4::text end,
       (array['command', 'query', 'alert', 'data'])[1 + n % 4],
       jsonb_build_object('n', n, 'county', 'c' || 10 + n),
       (array[5, 9, 1, 7, 3, 10])[1 + n % 6], clock_timestamp()
from generate_series($1::int, $1::int + $2::int - 1) as n
