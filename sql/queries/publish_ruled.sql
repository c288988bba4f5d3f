-- Inserts messages as publish.sql does, without ON CONFLICT and RETURNING, neither of which a table with a rule allows. The caller
-- has left out those whose dedupe key is known: here the rule's own statement would read the condition after the rows are in.
-- Called by src/store/publish/ruled.rs. Walks no index.
-- $1 ids uuid[]
-- $2 senders text[]
-- $3 recipients text[]
-- $4 types text[]
-- $5 payloads text[]
-- $6 priorities integer[]
-- $7 delays_ms bigint[]
-- $8 ttls_ms bigint[]
-- $9 dedupe_keys text[]
-- $10 correlations text[]
-- $11 headers text[]
-- $12 topics text[]
-- $13 environments text[]
-- $14 groups text[]
-- $15 instances text[]
-- $16 ordering_keys text[]
insert into agent_messages (message_id, from_agent_id, to_agent_id, message_type, payload, priority, status,
                            deliver_at, expires_at, dedupe_key, correlation_id, headers,
                            topic, to_environment, to_group, to_instance, ordering_key)
select p.id, p.sender, p.recipient, p.message_type, p.payload::jsonb, p.priority, 'pending',
       now() + p.delay_ms * interval '1 millisecond', now() + p.ttl_ms * interval '1 millisecond',
       p.dedupe_key, p.correlation_id, p.headers::jsonb, p.topic, p.environment,
       p.in_group, p.instance, p.ordering_key
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bigint[], $8::bigint[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[])
     with ordinality as p (id, sender, recipient, message_type, payload, priority, delay_ms, ttl_ms, dedupe_key,
                           correlation_id, headers, topic, environment, in_group, instance, ordering_key, n)
order by p.n
