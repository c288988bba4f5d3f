-- The ready deliveries, by inbox and priority (a reply to a process counts as the highest): how many, the age of the oldest
-- message in seconds, and whether some broker has the inbox, so that somebody takes from it.
-- Called by src/store/status.rs while somebody watches. Reads deliveries_lane from end to end, then one delivery and one message
-- for each inbox and priority: the caller asks the more seldom the longer it takes.
select w.inbox, greatest(w.priority, 1::smallint) as priority, w.waiting, l.inbox is not null as is_taken,
       case when isfinite(m.created_at) then extract(epoch from clock_timestamp() - m.created_at)::float8 end as oldest_seconds
from (
  select inbox, priority, count(*) as waiting, min(delivery_id) as oldest_id
  from postbell.deliveries where state = 'ready' group by inbox, priority
) w
left join postbell.leases l on l.inbox = w.inbox
left join lateral (select message_id from postbell.deliveries d where d.delivery_id = w.oldest_id offset 0) d on true
left join lateral (select created_at from agent_messages m
                   where m.message_id = d.message_id and postbell.is_readable(d.message_id) offset 0) m on true
