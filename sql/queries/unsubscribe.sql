-- An agent wants a topic no more: $1 agent, $2 pattern. What was delivered to it by then stays. Called by
-- src/store/subscriptions.rs. Uses subscriptions_agent.
delete from postbell.subscriptions where pattern = $2::text and agent_id = $1::text
