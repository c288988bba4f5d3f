-- An agent wants a topic from now on: $1 agent, $2 pattern, $3 the most subscriptions it may have. One row: whether it
-- has it now; not, if it has as many others. Called by src/store/subscriptions.rs. Uses subscriptions_agent.
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
