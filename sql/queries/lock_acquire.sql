-- Takes a lock that nobody holds, or, with its fence, holds it for longer. One row: `fence` if the caller holds it now; else who
-- holds it and for how many milliseconds, or that the task is done, or that the agent may not lock this (`may`), or no more
-- (`is_full`). Locks that the agent let end a minute ago are removed.
-- Called by src/store/locks.rs. Uses locks' primary key, locks_held; `coalesce` and the joined text keep the planner from
-- reading the latter whole where the key is known.
-- $1 key text
-- $2 agent text
-- $3 hold_ms bigint
-- $4 fence bigint: of the lock that the agent holds; null: it does not
-- $5 held_max bigint: null: no limit
-- $6 role text: the agent's
with ended as (
  delete from postbell.locks
  where key = any (array(select l.key from postbell.locks l
                         where l.agent_id = $2::text and l.done_at is null and l.until < now() - interval '1 minute'
                           and l.key <> $1::text
                         limit 100))
), allowed as (
  select postbell.may_use('lock', $1::text, $2::text, $6::text) as may,
         $4::bigint is null and $5::bigint is not null
           and (select count(*) from (select from postbell.locks h
                                      where h.agent_id = $2::text and h.done_at is null and h.until > clock_timestamp()
                                      limit $5::bigint) held) >= $5::bigint as is_full
), taken as (
  insert into postbell.locks as l (key, agent_id, until)
  select $1::text, $2::text, clock_timestamp() + $3::bigint * interval '1 millisecond'
  from allowed a where $4::bigint is null and a.may and not a.is_full
  on conflict (key) do update
  set agent_id = excluded.agent_id, fence = excluded.fence, until = excluded.until
  where l.done_at is null and l.until <= clock_timestamp()
  returning l.fence
), kept as (
  update postbell.locks l set until = clock_timestamp() + $3::bigint * interval '1 millisecond'
  from allowed a
  where l.key = $1::text and l.fence = $4::bigint and l.agent_id || '' = $2::text
    and coalesce(l.done_at, 'infinity') = 'infinity' and a.may
  returning l.fence
), mine as (
  select fence from taken union all select fence from kept
)
select m.fence, a.may, a.is_full, l.agent_id as holder, l.done_at is not null as is_done,
       greatest(0, extract(epoch from l.until - clock_timestamp()) * 1000)::bigint as left_ms
from allowed a
left join mine m on true
left join postbell.locks l on m.fence is null and l.key = $1::text
