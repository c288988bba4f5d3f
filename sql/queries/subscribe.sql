-- Subscribes an agent to a topic from now on. One row: whether it has the subscription now; not, where it has as many others.
-- Called by src/store/subscriptions.rs. Uses subscriptions_agent.
-- $1 agent text
-- $2 pattern text
-- $3 subscriptions_max bigint
with others as (
  select count(*) as n from (select from postbell.subscriptions where agent_id = $1::text limit $3::bigint) s
), added as (
  insert into postbell.subscriptions (pattern, agent_id)
  select $2::text, $1::text from others where n < $3::bigint
  on conflict do nothing
  returning pattern
)
select exists (select from added)
       or exists (select from postbell.subscriptions where pattern = $2::text and agent_id = $1::text) as has_it
