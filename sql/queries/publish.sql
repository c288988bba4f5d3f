-- Messages that agents send through the broker, many at once. Each array has one element a message: $1 id,
-- $2 sender, $3 recipient (null: all), $4 type, $5 payload as text, $6 priority, $7 delay and $8 time to live in
-- milliseconds, $9 dedupe key, $10 correlation id, $11 headers as text, $12 topic, $13 environment,
-- $14 group, $15 instance, $16 ordering key. Returns the ids that are new: the others have a dedupe key that this sender
-- used before. Called by src/store/publish.rs. Uses agent_messages_dedupe.
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
on conflict (from_agent_id, dedupe_key) where dedupe_key is not null do nothing
returning message_id
