-- Ready deliveries to names that are no registered agent's, and no group's, which nobody registers. Called by src/postgres/gauges.rs. Uses
-- deliveries_lane, a step an inbox (a loose index scan): the backlog of an inbox is not walked to find the next.
with recursive inbox (name) as (
  (select d.inbox from postbell.deliveries d where d.state = 'ready' order by d.inbox limit 1)
  union all
  select (select d.inbox from postbell.deliveries d
          where d.state = 'ready' and d.inbox > inbox.name order by d.inbox limit 1)
  from inbox where inbox.name is not null
)
select count(*)
from inbox
join postbell.deliveries d on d.inbox = inbox.name and d.state = 'ready'
where inbox.name not like 'group:%'
  and not exists (select from agent_registry r where r.agent_id = inbox.name)
