-- Takes the alerts from the queue that nobody acknowledged in time; gives their ids, and in how many milliseconds the next is due.
-- alerts_escalate.sql does so where no rule of the user's is on the tables: with a rule, an INSERT or UPDATE of them cannot be a
-- part of another statement.
-- Called by src/store/alerts/ruled.rs. Uses escalations_raised.
-- $1 unacknowledged_ms bigint
-- $2 alerts_max bigint
with due as (
  delete from postbell.escalations e
  where e.alert_id = any (array(
    select q.alert_id from postbell.escalations q
    where q.raised_at <= now() - $1::bigint * interval '1 millisecond'
    order by q.raised_at, q.alert_id limit $2::bigint
    for update skip locked))
  returning e.alert_id
)
select (select coalesce(array_agg(alert_id), '{}') from due) as alerts,
       (select ceil(extract(epoch from min(raised_at) - now()) * 1000)::bigint + $1::bigint
        from postbell.escalations where raised_at > now() - $1::bigint * interval '1 millisecond') as next_ms
