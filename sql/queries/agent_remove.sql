-- Takes an agent off the registry. The agent's deliveries stay, for an agent that is registered under that name again. One row:
-- whether it was registered, whether it was removed, and how many deliveries wait.
-- Called by src/store/agents.rs. Reads postbell.deliveries whole: no index has every state.
-- $1 agent_id text
-- $2 even_if_waiting boolean: remove it also where deliveries wait
with waiting as (
  select count(*) as n from postbell.deliveries d where d.inbox = $1::text and d.state <> 'dead'
), known as (
  select agent_id from agent_registry where agent_id = $1::text
), removed as (
  delete from agent_registry r using waiting w
  where r.agent_id = $1::text and ($2::boolean or w.n = 0)
  returning r.agent_id
), unsubscribed as (
  delete from postbell.subscriptions s using removed r where s.agent_id = r.agent_id
)
select exists (select from known) as was_known, exists (select from removed) as is_removed,
       (select n from waiting) as waiting
