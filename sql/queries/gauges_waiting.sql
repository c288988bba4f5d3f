-- The deliveries that wait. The kinds of rows:
--   priority  how many at priority `name` (a reply to a process counts as the highest), and since when (Unix seconds)
--   agent     how many for a registered agent or a group; without a name for the others together
--   unknown   how many for names that are no registered agent's and no group's
-- Called by src/store/gauges.rs at most every few seconds, when somebody asks for the metrics. Reads deliveries_lane from end to
-- end, once; then one message a priority, and the registry once an inbox that has something.
-- $1 agents_max bigint: those with the most have a row of their own
with lanes as materialized (
  select inbox, priority, count(*) as waiting, min(delivery_id) as oldest_id
  from postbell.deliveries where state = 'ready' group by inbox, priority
), inboxes as materialized (
  select inbox, sum(waiting)::bigint as waiting, row_number() over (order by sum(waiting) desc, inbox) as place,
         inbox like 'group:%' or exists (select from agent_registry r where r.agent_id = lanes.inbox) as is_known
  from lanes group by inbox
)
select 'priority' as kind, w.priority::text as name, w.waiting, extract(epoch from case when isfinite(m.created_at) then m.created_at else now() end)::float8 as oldest
from (
  select greatest(priority, 1::smallint) as priority, sum(waiting)::bigint as waiting, min(oldest_id) as oldest_id
  from lanes group by 1
) w
left join postbell.deliveries d on d.delivery_id = w.oldest_id
left join lateral (select created_at from agent_messages m
                   where m.message_id = d.message_id and postbell.is_readable(d.message_id) offset 0) m on true
union all
select 'agent', case when place <= $1::bigint then inbox end as name, sum(waiting)::bigint, null
from inboxes where is_known group by 2
union all
select 'unknown', null, coalesce(sum(waiting), 0)::bigint, null from inboxes where not is_known
