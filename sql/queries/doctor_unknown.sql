-- Inboxes with ready deliveries that no registered agent has, except those of groups, and how many wait in each.
-- Called by src/store/doctor/mesh.rs. Uses deliveries_lane, a step an inbox (a loose index scan).
-- $1 inboxes_max bigint
-- $2 count_max bigint: deliveries of an inbox are counted up to this
with recursive inbox (name) as (
  (select d.inbox from postbell.deliveries d where d.state = 'ready' order by d.inbox limit 1)
  union all
  select (select d.inbox from postbell.deliveries d
          where d.state = 'ready' and d.inbox > inbox.name order by d.inbox limit 1)
  from inbox where inbox.name is not null
)
select inbox.name,
       (select count(*) from (select from postbell.deliveries d
                              where d.inbox = inbox.name and d.state = 'ready' limit $2::bigint) few) as waiting
from inbox
where inbox.name is not null and inbox.name not like 'group:%'
  and not exists (select from agent_registry r where r.agent_id = inbox.name)
limit $1::bigint
