-- The first message of each sender with each dedupe key.
-- Called by src/store/publish.rs. Uses agent_messages_dedupe.
-- $1 senders text[]
-- $2 dedupe_keys text[]
select k.n, m.message_id
from unnest($1::text[], $2::text[]) with ordinality as k (sender, dedupe_key, n)
cross join lateral (select m.message_id from agent_messages m
                    where m.from_agent_id = k.sender and m.dedupe_key = k.dedupe_key offset 0) m
