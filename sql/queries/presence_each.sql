-- Writes presence agent by agent, after a statement for all was refused. A row for each agent whose row is not as it should be.
-- Called by src/store/presence/search.rs. Uses agent_registry's primary key.
-- $1 event text: connected, heartbeat, disconnected, silent or gone
-- $2 brokers uuid[]
-- $3 agents text[]
-- $4 environments text[]: one element an agent, or null; so are the following
-- $5 capabilities text[]: as text
-- $6 versions text[]
-- $7 reasons text[]
select agent_id, became, why
from postbell.presence_each($1::text, $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
