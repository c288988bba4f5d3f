-- What waits, by priority (a reply to a process counts as the highest): how many, and since when (Unix seconds). Called by src/postgres/gauges.rs at most every
-- few seconds, when somebody asks for the metrics. Reads deliveries_lane from end to end, then one message each.
select w.priority, w.waiting, extract(epoch from m.created_at)::float8 as oldest
from (
  select greatest(priority, 1::smallint) as priority, count(*) as waiting, min(delivery_id) as oldest_id
  from postbell.deliveries where state = 'ready' group by 1
) w
left join postbell.deliveries d on d.delivery_id = w.oldest_id
left join agent_messages m on m.message_id = d.message_id
