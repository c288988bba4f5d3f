-- What an operator asks in psql or in a database's web console. They read the tables as they are; none of them is on the
-- way of a message.

-- Who is where, and whether it lives.
create view postbell.environments as
  select environment,
         count(*) as agents,
         count(*) filter (where enabled is not false) as enabled,
         count(*) filter (where status not in ('offline', 'error')) as alive,
         min(last_heartbeat) as oldest_heartbeat,
         max(last_heartbeat) as newest_heartbeat
  from agent_registry
  group by environment;

-- What waits to be delivered or is with an agent, by inbox and priority.
create view postbell.waiting as
  select d.inbox, d.priority, count(*) as messages,
         count(*) filter (where d.state = 'scheduled') as scheduled,
         min(m.created_at) as oldest, now() - min(m.created_at) as oldest_age
  from postbell.deliveries d
  join agent_messages m using (message_id)
  where d.state <> 'dead'
  group by d.inbox, d.priority;

-- Who sent how much to whom in the last day, by environment; what is for many has no environment of its own.
create view postbell.flow as
  select coalesce(s.environment, '(not registered)') as from_environment,
         coalesce(r.environment, m.to_environment, case when m.to_agent_id is null then '(many)' else '(not registered)' end)
           as to_environment,
         count(*) as messages,
         count(*) filter (where m.status = 'processed') as processed,
         count(*) filter (where m.status = 'failed') as failed,
         avg(m.processed_at - m.created_at) filter (where m.status = 'processed') as mean_time
  from agent_messages m
  left join agent_registry s on s.agent_id = m.from_agent_id
  left join agent_registry r on r.agent_id = m.to_agent_id
  where m.created_at > now() - interval '1 day'
  group by 1, 2;

-- The dead letters by their reason; numbers in it do not make another one.
create view postbell.dead_letters as
  select regexp_replace(coalesce(last_error, '(none)'), '[0-9]+', '#', 'g') as reason, count(*) as letters,
         count(distinct inbox) as inboxes, min(dead_at) as first, max(dead_at) as last, min(delivery_id) as an_example
  from postbell.deliveries
  where state = 'dead'
  group by 1;
