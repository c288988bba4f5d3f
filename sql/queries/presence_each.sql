-- Presence agent by agent, after a statement for all was refused: $1 connected, heartbeat, disconnected, silent or gone,
-- $2 brokers, $3 agents; $4 environments, $5 capabilities, $6 versions, $7 reasons, an element an agent or null. A row for each
-- agent whose row is not as it should be. Called by src/store/presence.rs. Uses agent_registry's primary key.
select agent_id, became, why
from postbell.presence_each($1::text, $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
