-- In how many milliseconds the first change is due that time alone brings about, 0 if one is due already; null: none is known. While a
-- broker rests, this stands for its sweeps, each of which finds the same in its own statement: sweep.sql, due_promote.sql,
-- reap_expired.sql, presence_silent.sql, alerts_offline.sql, alerts_escalate.sql, aside_next.sql. Each has a part here.
-- Called by src/store/resting.rs, twice a minute while nothing happens. Uses deliveries_due, agent_messages_expires,
-- presence_history_untold, escalations_raised, set_aside_due and the primary key of unseen; reads agent_registry whole, as
-- presence_silent.sql does.
-- $1 grace_ms bigint: how long after its expiry a message is left alone
-- $2 away_ms bigint: an absence becomes an alert after so long
-- $3 unacknowledged_ms bigint: an alert is escalated after so long
-- $4 silent_seconds bigint: an agent that says nothing is offline after so long
-- $5 left_behind_seconds bigint: so is one whose row names brokers, none of which lives
with noted as (
  select now() as at where exists (select from postbell.unseen)
), scheduled as (
  select min(due_at) as at from postbell.deliveries where state = 'scheduled' and due_at < 'infinity'
), expired as (
  select now() as at where exists (
    select from agent_messages m
    where expires_at is not null and expires_at < now() - $1::bigint * interval '1 millisecond'
      and coalesce(status, 'pending') = 'pending'
      and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0))
), expiring as (
  -- Among the next hundred; if none of those waits, the next look is when the last of them expires.
  select case when bool_or(waits) then min(expires_at) filter (where waits)
              when count(*) = 100 then max(expires_at) end + $1 * interval '1 millisecond' as at
  from (
    select expires_at::timestamptz as expires_at, coalesce(status, 'pending') = 'pending' as waits
    from agent_messages
    where expires_at is not null and expires_at >= now() - $1 * interval '1 millisecond' and expires_at < 'infinity'
    order by agent_messages.expires_at limit 100
  ) m
), silent as (
  select min(coalesce(r.last_heartbeat, r.updated_at, '-infinity')::timestamptz + interval '1 second' * case
    when cardinality(r.connected_to) > 0
         and not exists (select from postbell.brokers b where b.broker_id = any (r.connected_to) offset 0)
    then $5::bigint else $4::bigint end) as at
  from agent_registry r where r.status <> 'offline'
), absent as (
  select min(h.since) + $2::bigint * interval '1 millisecond' as at
  from postbell.presence_history h
  cross join lateral (
    select from agent_registry r
    where r.agent_id = any (array[h.agent_id]) and r.status = 'offline' and r.enabled is not false
    offset 0
  ) r
  where h.until = 'infinity' and h.alert_id is null and h.reason in ('disconnected', 'silent', 'broker_gone')
), unacknowledged as (
  select min(raised_at) + $3::bigint * interval '1 millisecond' as at from postbell.escalations
), set_aside as (
  select min(next_try) as at from postbell.set_aside where dropped_at is null and message_id is not null and next_try > '-infinity'
)
select case when count(*) > 0
            then ceil(1000 * extract(epoch from least(greatest(min(at), now()), now() + interval '1 hour') - now()))::bigint end as due_ms
from (select at from noted union all select at from scheduled union all select at from expired union all select at from expiring
      union all select at from silent union all select at from absent union all select at from unacknowledged
      union all select at from set_aside) d
where at is not null
