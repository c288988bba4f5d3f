-- Ends an agent's subscription to a topic. Deliveries that it has by then stay.
-- Called by src/store/subscriptions.rs. Uses subscriptions_agent.
-- $1 agent text
-- $2 pattern text
delete from postbell.subscriptions where pattern = $2::text and agent_id = $1::text
