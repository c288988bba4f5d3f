-- Gives a lock back, or marks its task as done.
-- Called by src/store/locks.rs. Uses locks' primary key, locks_done; `coalesce` and the joined text keep the planner from an
-- agent's locks.
-- $1 key text
-- $2 agent text
-- $3 fence bigint: a holder that lost the lock changes nothing
-- $4 done boolean
-- $5 done_max bigint: tasks that the agent may have marked; null: no limit
with counted as (
  select $4::boolean and $5::bigint is not null
           and (select count(*) from (select from postbell.locks l
                                      where l.agent_id = $2::text and l.done_at is not null
                                      limit $5::bigint) marked) >= $5::bigint as is_full
), done as (
  update postbell.locks set done_at = clock_timestamp()
  where $4::boolean and not (select is_full from counted)
    and key = $1::text and fence = $3::bigint and agent_id || '' = $2::text and coalesce(done_at, 'infinity') = 'infinity'
  returning key
), released as (
  delete from postbell.locks
  where not $4::boolean and key = $1::text and fence = $3::bigint and agent_id || '' = $2::text and coalesce(done_at, 'infinity') = 'infinity'
  returning key
)
select exists (select from done union all select from released) as was_held, is_full from counted
