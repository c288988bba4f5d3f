-- Takes a lock that nobody holds, or, with its fence, holds it for longer. $1 key, $2 agent, $3 milliseconds, $4 the fence
-- of the one that holds it (null: it does not). One row: `fence` if it is held now by whoever asks; else who holds it, for
-- how many milliseconds, or that the task is done. Called by src/postgres/locks.rs. Uses locks' primary key.
with taken as (
  insert into postbell.locks as l (key, agent_id, until)
  select $1::text, $2::text, clock_timestamp() + $3::bigint * interval '1 millisecond' where $4::bigint is null
  on conflict (key) do update
  set agent_id = excluded.agent_id, fence = excluded.fence, until = excluded.until
  where l.done_at is null and l.until <= clock_timestamp()
  returning l.fence
), kept as (
  update postbell.locks l set until = clock_timestamp() + $3::bigint * interval '1 millisecond'
  where l.key = $1::text and l.fence = $4::bigint and l.agent_id = $2::text and l.done_at is null
  returning l.fence
), mine as (
  select fence from taken union all select fence from kept
)
select m.fence, l.agent_id as holder, l.done_at is not null as is_done,
       greatest(0, extract(epoch from l.until - clock_timestamp()) * 1000)::bigint as left_ms
from (select) one
left join mine m on true
left join postbell.locks l on m.fence is null and l.key = $1::text
